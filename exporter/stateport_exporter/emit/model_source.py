# SPDX-License-Identifier: Apache-2.0
"""`model.h` and `model.c`: the step of a network behind a struct that holds its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stateport import __version__
from stateport.contract import ArraySpec

from ..errors import ExportError
from .fixed_step import FixedStep
from .program import CArray
from .step_source import STEP, StepSource

#: NumPy's name of a dtype -> C's.
CTYPES: Final = {
    "bool": "bool",
    "float32": "float",
    "float64": "double",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class Port:
    """An input, an output or a state in C.

    Attributes:
        array: its name, type and shape in C.
        spec: what the contract says of it, with a number for every axis.
    """

    array: CArray
    spec: ArraySpec

    @property
    def macro(self) -> str:
        """The last part of the constant with its size: "X_SIZE"."""
        return f"{self.array.name.upper()}_SIZE"

    @property
    def comment(self) -> str:
        """Its shape in words: "x: float[1][1][5]"."""
        return f"{self.array.name}: {self.array.ctype}{''.join(f'[{n}]' for n in self.array.dims)}"


@dataclass(frozen=True)
class Interface:
    """The parts of the struct and of the functions.

    Attributes:
        name: what all names begin with, "model".
        inputs: the inputs in the contract's order.
        outputs: the outputs in the contract's order.
        states: the states; the names are those of the inputs.
        nexts: by a state's name, the name of its next value.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: tuple[Port, ...]
    nexts: Mapping[str, str]


def interface_of(step: FixedStep, name: str) -> Interface:
    """What a step takes and gives, in C.

    Raises:
        ExportError: an array has a dtype that C99 does not have.
    """
    contract = step.contract

    def port(spec: ArraySpec) -> Port:
        return Port(_array(step.names[spec.name], spec), spec)

    nexts = {}
    for state in contract.states:
        nexts[step.names[state.input]] = step.names[state.output]
    return Interface(
        name,
        tuple(map(port, contract.inputs)),
        tuple(map(port, contract.outputs)),
        tuple(map(port, contract.state_inputs)),
        nexts,
    )


def _array(name: str, spec: ArraySpec) -> CArray:
    if spec.dtype not in CTYPES:
        raise ExportError(
            f"{spec.name!r} is {spec.dtype}, which C99 does not have. Export the network in "
            "float32; its weights may be int8 (stateport quantize)."
        )
    return CArray(name, CTYPES[spec.dtype], tuple(map(int, spec.shape)))


def header(interface: Interface, step: FixedStep) -> str:
    """The text of `model.h`."""
    name, upper = interface.name, interface.name.upper()
    ports = (*interface.inputs, *interface.outputs, *interface.states)
    sizes = [
        f"#define {upper}_{port.macro} {port.array.size} /* {port.comment} */" for port in ports
    ]
    fields = [
        f"    {port.array.ctype} {port.array.name}[{upper}_{port.macro}];"
        for port in interface.states
    ]
    if not fields:
        fields = ["    char none; /* this network has no state */"]

    return f"""\
/* {name}.h: one step of a network, with its state in a struct.
   Written by stateport {__version__}. */
#ifndef {upper}_H
#define {upper}_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_BATCH {step.batch} /* rows in each array */
#define {upper}_TIME {step.time} /* entries along time in each array, where it has time */

/* The number of elements of each array. */
{chr(10).join(sizes)}

/* The state of one live sequence. Copy it, store it, have as many as you like. */
typedef struct {{
{chr(10).join(fields)}
}} {name}_state;

/* Begins a sequence: sets the first state. */
{_reset_signature(interface)};

/* One step. The arrays must not overlap one another or the state. */
{_step_signature(interface)};

/* Many steps. Each array holds what belongs to the first step, then the second, and so on. */
{_run_signature(interface)};

#ifdef __cplusplus
}}
#endif
#endif
"""


def source(interface: Interface, step: StepSource, first: Mapping[str, NDArray[Any]]) -> str:
    """The text of `model.c`.

    Args:
        interface: what the step takes and gives.
        step: the step.
        first: by a state's name in the file, the first value, where it is not zeros.
    """
    name = interface.name
    return f"""\
/* {name}.c: see {name}.h. Written by stateport {__version__}.
   It allocates nothing and has no variables outside of functions: call it from any thread. */
#include "{name}.h"

#include <float.h>
#include <math.h>
#include <string.h>

#ifndef idx_t
#define idx_t int32_t
#endif

{step.text}
{_first_values(interface, first)}{_reset(interface, first)}
{_step(interface, step)}
{_run(interface)}"""


def state_bytes(interface: Interface) -> int:
    """The bytes of the struct, but for what a compiler puts between its parts."""
    return sum(port.array.nbytes for port in interface.states)


def _reset_signature(interface: Interface) -> str:
    return f"void {interface.name}_reset({interface.name}_state *state)"


def _step_signature(interface: Interface) -> str:
    return f"void {interface.name}_step({interface.name}_state *state{_arrays(interface)})"


def _run_signature(interface: Interface) -> str:
    name = interface.name
    return f"void {name}_run({name}_state *state, size_t steps{_arrays(interface)})"


def _arrays(interface: Interface) -> str:
    inputs = [f", const {port.array.ctype} *{port.array.name}" for port in interface.inputs]
    outputs = [f", {port.array.ctype} *{port.array.name}" for port in interface.outputs]
    return "".join(inputs + outputs)


def first_name(port: Port) -> str:
    """The name of a state's first value in C."""
    return f"first_{port.array.name}"


def _first_values(interface: Interface, first: Mapping[str, NDArray[Any]]) -> str:
    texts = []
    for port in interface.states:
        if port.spec.name in first:
            values = np.broadcast_to(first[port.spec.name], port.array.dims).ravel()
            elements = ", ".join(map(c_number, values))
            texts.append(
                f"static const {port.array.ctype} {first_name(port)}[{port.array.size}] = "
                f"{{\n    {elements}\n}};\n\n"
            )
    return "".join(texts)


def c_number(value: Any) -> str:
    """A number as C writes it, exactly."""
    if isinstance(value, np.bool_ | bool):
        return "true" if value else "false"
    if isinstance(value, np.integer | int):
        return str(int(value))
    if not np.isfinite(value):
        return "NAN" if np.isnan(value) else ("INFINITY" if value > 0 else "-INFINITY")
    return float(value).hex() + ("f" if isinstance(value, np.float32) else "")


def _reset(interface: Interface, first: Mapping[str, NDArray[Any]]) -> str:
    lines = []
    for port in interface.states:
        array = port.array
        if port.spec.name in first:
            lines.append(
                f"memcpy(state->{array.name}, {first_name(port)}, sizeof state->{array.name});"
            )
        else:
            lines.append(f"memset(state->{array.name}, 0, sizeof state->{array.name});")
    if not lines:
        lines = ["state->none = 0;"]
    return _function(_reset_signature(interface), lines)


def _step(interface: Interface, step: StepSource) -> str:
    declarations, arguments, copies = [], {}, []
    for port in interface.states:
        array = port.array
        after = f"next_{array.name}"
        declarations.append(f"{array.ctype} {after}[{array.size}];")
        arguments[array.name] = f"state->{array.name}"
        arguments[interface.nexts[array.name]] = after
        copies.append(f"memcpy(state->{array.name}, {after}, sizeof {after});")

    call = ", ".join(arguments.get(array.name, array.name) for array in step.parameters)
    lines = [*declarations, f"{STEP}({call});", *copies]
    if not interface.states:
        lines = ["(void)state;", *lines]
    return _function(_step_signature(interface), lines)


def _run(interface: Interface) -> str:
    moves, arguments = [], []
    for port in (*interface.inputs, *interface.outputs):
        arguments.append(f", {port.array.name}")
        moves.append(f"    {port.array.name} += {port.array.size};")
    lines = [
        "for (; steps > 0; --steps) {",
        f"    {interface.name}_step(state{''.join(arguments)});",
        *moves,
        "}",
    ]
    return _function(_run_signature(interface), lines)


def _function(signature: str, lines: list[str]) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"{signature}\n{{\n{body}}}\n"
