# SPDX-License-Identifier: Apache-2.0
"""The step of a program as text in C: its constants, its functions and the step itself."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from .names import identifier
from .places import Placed, placed
from .program import BYTES, Call, CArray, Constant, Function, Program
from .statements import OWN_HELPERS, Statements, multiplications

STEP: Final = "compute"
_LINE: Final = 100

#: Around functions of the generator, whose sizes are signed numbers.
_QUIET: Final = """\
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-const-variable"
#endif
"""
_LOUD: Final = """\
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
"""


@dataclass(frozen=True)
class StepSource:
    """A step in C.

    Attributes:
        text: constants and functions; the last one is `compute`.
        parameters: the arrays that `compute` takes, in order: inputs, then outputs.
        constant_bytes: the bytes of the constants.
        scratch_bytes: the bytes of local arrays, without what the compiler adds.
        multiplications: the multiplications of one step.
        generated: the operators whose functions the generator wrote.
    """

    text: str
    parameters: tuple[CArray, ...]
    constant_bytes: int
    scratch_bytes: int
    multiplications: int
    generated: tuple[str, ...]


def step_source(program: Program) -> StepSource:
    """Writes a step."""
    taken = {array.name.lower() for array in (*program.inputs, *program.outputs)}
    program = _with_short_names(program, {*taken})
    place = placed(program, taken)
    names = frozenset(constant.array.name for constant in program.constants)
    statements = Statements(place, names)

    body: list[str] = []
    functions: dict[str, Function] = {}
    for call in place.calls:
        lines = statements.write(call)
        if lines is None:
            functions[call.function.name] = call.function
            lines = [_generated_call(call, place)]
        body += [f"/* {call.function.operator} */", *lines]

    used = _used_constants(program.constants, body, statements)
    parts = [
        *map(_constant_text, used),
        *_helpers(program, functions.values(), body),
        *statements.products.values(),
        *_generated_functions(functions.values()),
        _step_function(program, place.locals, body),
    ]
    counts = [multiplications(call, names) for call in place.calls]
    return StepSource(
        "\n".join(parts),
        (*program.inputs, *program.outputs),
        sum(constant.array.nbytes for constant in used),
        sum(array.nbytes for array in place.locals) + _most_local_bytes(functions.values()),
        sum(counts),
        tuple(sorted({function.operator for function in functions.values()})),
    )


def _step_function(program: Program, local: Sequence[CArray], body: Sequence[str]) -> str:
    """The function `compute` with these local arrays and statements."""
    parameters = [f"const {array.ctype} *{array.name}" for array in program.inputs]
    parameters += [f"{array.ctype} *{array.name}" for array in program.outputs]

    lines = []
    for array in program.inputs:
        if not _has_word(array.name, body):  # a compiler warns of what is not read
            lines.append(f"(void){array.name};")
    for array in local:
        lines.append(f"{array.ctype} {array.name}[{array.size}];")

    text = textwrap.indent("\n".join([*lines, *body]), "    ")
    return f"static void {STEP}(\n    {', '.join(parameters)})\n{{\n{text}\n}}\n"


def _with_short_names(program: Program, taken: set[str]) -> Program:
    """The program with names for constants that are like those in the model."""
    names = {}
    for constant in program.constants:
        name = constant.array.name
        # No function of C's library begins so, as `exp` and `y1` do.
        names[name] = identifier(re.sub(r"^weight\d+_", "w_", name), taken)

    constants = []
    for constant in program.constants:
        array = replace(constant.array, name=names[constant.array.name])
        constants.append(replace(constant, array=array))

    calls = []
    for call in program.calls:
        arguments = tuple(names.get(name, name) for name in call.arguments)
        calls.append(replace(call, arguments=arguments))
    return replace(program, constants=tuple(constants), calls=tuple(calls))


def _generated_call(call: Call, place: Placed) -> str:
    """A call of the generator's function, which takes arrays with all their dimensions."""
    arguments = []
    for name, parameter in zip(call.arguments, call.function.parameters, strict=True):
        array, text = parameter.array, str(place.place(name))
        if len(array.dims) > 1:
            inner = "".join(f"[{size}]" for size in array.dims[1:])
            const = "" if parameter.is_output else "const "
            text = f"({const}{array.ctype} (*){inner})({text})"
        elif not array.dims:
            text = f"*({text})"
        arguments.append(text)
    return f"{call.function.name}({', '.join(arguments)});"


def _used_constants(
    constants: Iterable[Constant], body: Sequence[str], statements: Statements
) -> list[Constant]:
    """The constants that the step reads, those of some products transposed."""
    used = []
    for constant in constants:
        name = constant.array.name
        if not _has_word(name, body):
            continue
        if name in statements.transposed:
            elements = np.array(constant.elements, dtype=object)
            turned = elements.reshape(statements.transposed[name]).T.ravel()
            constant = replace(constant, elements=tuple(turned))
        used.append(constant)
    return used


def _constant_text(constant: Constant) -> str:
    array = constant.array
    elements = textwrap.fill(", ".join(constant.elements), _LINE - 4, break_long_words=False)
    shape = " by ".join(map(str, array.dims)) or "1"
    return (
        f"static const {array.ctype} {array.name}[{array.size}] = {{ /* {shape} */\n"
        f"{textwrap.indent(elements, '    ')}\n}};\n"
    )


def _helpers(program: Program, functions: Iterable[Function], body: Sequence[str]) -> list[str]:
    """The small functions that are called, each after those that it calls."""
    texts = ["\n".join(body), *(function.source for function in functions)]
    helpers = {**program.helpers, **OWN_HELPERS}

    wanted: set[str] = set()
    for name, text in reversed(helpers.items()):
        if any(_has_word(name, [each]) for each in texts):
            wanted.add(name)
            texts.append(text)
    return [helpers[name].replace("static inline", "static") for name in helpers if name in wanted]


def _generated_functions(functions: Iterable[Function]) -> list[str]:
    sources = [function.source for function in functions]
    return [_QUIET, *sources, _LOUD] if sources else []


def _most_local_bytes(functions: Iterable[Function]) -> int:
    """The bytes of the local arrays of the function that has most."""
    most = 0
    for function in functions:
        body = function.source.partition("{")[2]
        own = 0
        for ctype, dims in re.findall(r"^\s*(\w+) \w+((?:\[\d+\])+);", body, re.MULTILINE):
            sizes = [int(size) for size in re.findall(r"\d+", dims)]
            own += BYTES.get(ctype, 1) * int(np.prod(sizes))
        most = max(most, own)
    return most


def _has_word(word: str, lines: Iterable[str]) -> bool:
    return any(re.search(rf"\b{word}\b", line) for line in lines)
