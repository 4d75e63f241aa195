# SPDX-License-Identifier: Apache-2.0
"""`model_test.c`: recorded inputs, and a program that compares the answers with PyTorch's."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stateport import __version__

from .model_source import Interface, Port, c_number
from .recorded import Answer, RecordedCase

_WIDTH: Final = 96

_DIFFERS: Final = """\
static int differs_{ctype}(const char *name, unsigned long step, const {ctype} *answer,
                           const double *truth, unsigned long size, double allowed)
{{
    unsigned long i;
    for (i = 0; i < size; ++i) {{
        const double is = (double)answer[i];
        const double off = is > truth[i] ? is - truth[i] : truth[i] - is;
        const int both_are_nan = is != is && truth[i] != truth[i];
        if (!(off <= allowed) && !(is == truth[i] || both_are_nan)) {{
            SAY("FAIL: step %lu, %s[%lu] is %.9g; %.9g was expected, or at most %.3g from it\\n",
                step, name, i, is, truth[i], allowed);
            return 1;
        }}
    }}
    return 0;
}}
"""


def comparison_source(interface: Interface, cases: Sequence[RecordedCase]) -> str:
    """The text of `model_test.c`."""
    name = interface.name
    ctypes = sorted({port.array.ctype for port in (*interface.outputs, *interface.states)})
    parts = [
        f"""\
/* {name}_test.c: recorded inputs, and PyTorch's answers to them.
   Written by stateport {__version__}. The program returns 0 if {name}.c gives these answers, and
   else says the first difference. With {name.upper()}_TEST_QUIET defined it needs no stdio. */
#include "{name}.h"

#include <math.h>
#include <string.h>

#ifdef {name.upper()}_TEST_QUIET
#define SAY(...) ((void)0)
#else
#include <stdio.h>
#define SAY(...) printf(__VA_ARGS__)
#endif
""",
        *(_DIFFERS.format(ctype=ctype) for ctype in ctypes),
    ]
    for number, case in enumerate(cases):
        parts += _case_arrays(interface, case, number)
        parts.append(_case_function(interface, case, number))
    parts.append(_main(cases))
    return "\n".join(parts)


def _case_arrays(interface: Interface, case: RecordedCase, number: int) -> list[str]:
    texts = []
    for port in interface.inputs:
        values = case.inputs[port.spec.name]
        texts.append(_constant(port.array.ctype, f"case{number}_{port.array.name}", values))
    for port in interface.states:
        if port.spec.name in case.initial:
            values = case.initial[port.spec.name].astype(port.spec.dtype)
            texts.append(
                _constant(port.array.ctype, f"case{number}_first_{port.array.name}", values)
            )
    for port, answer in _answers(interface, case):
        texts.append(_constant("double", f"case{number}_truth_{port.array.name}", answer.truth))
    return texts


def _answers(interface: Interface, case: RecordedCase) -> list[tuple[Port, Answer]]:
    """The outputs and states of which answers are known."""
    known = []
    for ports, answers in ((interface.outputs, case.outputs), (interface.states, case.states)):
        for port in ports:
            if port.spec.name in answers:
                known.append((port, answers[port.spec.name]))
    return known


def _constant(ctype: str, name: str, values: NDArray[Any]) -> str:
    elements = ", ".join(map(c_number, values.ravel()))
    text = textwrap.fill(elements, _WIDTH, break_long_words=False)
    return (
        f"static const {ctype} {name}[{values.size}] = {{\n{textwrap.indent(text, '    ')}\n}};\n"
    )


def _case_function(interface: Interface, case: RecordedCase, number: int) -> str:
    """A function that runs one case, and returns 1 at the first difference."""
    name = interface.name
    lines = [f"{name}_state state;"]
    lines += [
        f"{port.array.ctype} {port.array.name}[{port.array.size}];" for port in interface.outputs
    ]
    lines += ["unsigned long step;", f"{name}_reset(&state);"]
    for port in interface.states:
        if port.spec.name in case.initial:
            field = f"state.{port.array.name}"
            lines.append(f"memcpy({field}, case{number}_first_{port.array.name}, sizeof {field});")

    arguments = ["&state"]
    arguments += [
        f"case{number}_{port.array.name} + step * {port.array.size}" for port in interface.inputs
    ]
    arguments += [port.array.name for port in interface.outputs]
    lines.append(f"for (step = 0; step < {case.steps}; ++step) {{")
    lines.append(f"    {name}_step({', '.join(arguments)});")
    ends = []
    for port, answer in _answers(interface, case):
        if len(answer.truth) == case.steps and port in interface.outputs:
            lines += [f"    {line}" for line in _comparison(port, answer, number, is_state=False)]
        else:
            ends += _comparison(port, answer, number, is_state=port in interface.states)
    lines += ["}", *ends, "return 0;"]
    body = textwrap.indent("\n".join(lines), "    ")
    return f"/* {_plain(case.name)} */\nstatic int case{number}(void)\n{{\n{body}\n}}\n"


def _comparison(port: Port, answer: Answer, number: int, *, is_state: bool) -> list[str]:
    array = port.array
    truth = f"case{number}_truth_{array.name}"
    if len(answer.truth) > 1:
        truth += f" + step * {array.size}"
    value = f"state.{array.name}" if is_state else array.name
    allowed = c_number(np.float64(answer.allowed))
    arguments = f'"{array.name}", step, {value}, {truth}, {array.size}, {allowed}'
    return [f"if (differs_{array.ctype}({arguments})) {{", "    return 1;", "}"]


def _main(cases: Sequence[RecordedCase]) -> str:
    calls = " || ".join(f"case{number}()" for number in range(len(cases)))
    steps = sum(case.steps for case in cases)
    return f"""\
int main(void)
{{
    if ({calls}) {{
        return 1;
    }}
    SAY("PASS: {steps} steps of {len(cases)} sequences\\n");
    return 0;
}}
"""


def _plain(text: str) -> str:
    """A text that may stand in a comment."""
    return "".join(c if c.isalnum() or c in " ,.-" else "_" for c in text if c.isascii())
