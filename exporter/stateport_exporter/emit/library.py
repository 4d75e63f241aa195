# SPDX-License-Identifier: Apache-2.0
"""The source of a library for the engine `c`: a step, and a function that takes whole arrays.

That function goes over the rows of a batch and over the steps of a call, so that one compiled step
serves every size. Where a row of an array lies in one piece, the step works on it directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from stateport.axes import Axis, names_in, resolve
from stateport.contract import ArraySpec, Contract
from stateport.model_file.onnx_outline import OnnxFile
from stateport.model_file.read_contract import read_contract

from ..errors import ExportError
from .fixed_step import FixedStep, fixed_step
from .model_source import Interface, Port, header, interface_of, source
from .rows import check_rows
from .step_source import STEP, StepSource, step_source
from .translation import translate

_SIGNATURE: Final = (
    "void stateport_call(void *const *arrays, int64_t rows_of_call, int64_t steps_of_call)"
)
_LAYOUT: Final = """\
/* Where a row and a step are in an array: outer[batch, middle, time] or outer[time, middle, batch],
   and behind them `inner` bytes. A step has `each` entries along time. */
typedef struct {
    size_t outer, middle, inner, each;
    int has_batch, has_time, time_first;
} layout;

static int in_one_piece(const layout *l)
{
    return l->outer == 1 && l->middle == 1 && (!l->time_first || l->each == 1);
}

static size_t place(const layout *l, size_t batch, size_t steps, size_t row, size_t step,
                    size_t outer, size_t middle, size_t entry)
{
    const size_t rows = l->has_batch ? batch : 1, times = l->has_time ? steps * l->each : l->each;
    const size_t r = l->has_batch ? row : 0, t = (l->has_time ? step * l->each : 0) + entry;
    if (l->time_first) {
        return (((outer * times + t) * l->middle + middle) * rows + r) * l->inner;
    }
    return (((outer * rows + r) * l->middle + middle) * times + t) * l->inner;
}

static void copy_part(const layout *l, size_t batch, size_t steps, size_t row, size_t step,
                      char *array, char *part, int is_read)
{
    for (size_t outer = 0; outer < l->outer; ++outer) {
        for (size_t middle = 0; middle < l->middle; ++middle) {
            for (size_t entry = 0; entry < l->each; ++entry) {
                char *there = array + place(l, batch, steps, row, step, outer, middle, entry);
                char *here = part + place(l, 1, 1, 0, 0, outer, middle, entry);
                memcpy(is_read ? here : there, is_read ? there : here, l->inner);
            }
        }
    }
}

static void *part_of(const layout *l, size_t batch, size_t steps, size_t row, size_t step,
                     void *array, void *part)
{
    if (in_one_piece(l)) {
        return (char *)array + place(l, batch, steps, row, step, 0, 0, 0);
    }
    return part;
}
"""


def library_source(file: OnnxFile) -> str:
    """The source of a model's library, in C99.

    It has `void stateport_call(void *const *arrays, int64_t batch, int64_t steps)`. The arrays are
    the contract's inputs and states, then its outputs and next states. `stateport_time` is the
    number of entries along time in one step.

    Raises:
        ContractError: the file has no contract.
        ExportError: the network has no such step, its rows depend on one another, or an operator
            has no form in C.
    """
    contract = read_contract(file)
    step = fixed_step(Path(file.path), contract, 1, "model")
    check_rows(file, contract)
    interface = interface_of(step, "model")
    layouts = [_layout(spec, fixed, step) for spec, fixed in _specs(contract, step)]

    body = step_source(translate(step.model))
    text = source(interface, body, file.initial)
    own = text.replace('#include "model.h"', header(interface, step))
    return "\n".join(
        [own, _LAYOUT, *_layout_texts(layouts, interface), _call(interface, step, body)]
    )


@dataclass(frozen=True)
class _Layout:
    """The fields of a `layout` in C, but for the size of an element."""

    outer: int
    middle: int
    inner: int
    each: int
    has_batch: bool
    has_time: bool
    time_first: bool


def _specs(contract: Contract, step: FixedStep) -> list[tuple[ArraySpec, ArraySpec]]:
    """Every array with its open and its fixed shape: inputs, states, outputs, next states."""
    fixed = step.contract
    pairs = [
        (contract.inputs, fixed.inputs),
        (contract.state_inputs, fixed.state_inputs),
        (contract.outputs, fixed.outputs),
        (contract.state_outputs, fixed.state_outputs),
    ]
    specs: list[tuple[ArraySpec, ArraySpec]] = []
    for opened, numbers in pairs:
        specs += zip(opened, numbers, strict=True)
    return specs


def _layout(spec: ArraySpec, fixed: ArraySpec, step: FixedStep) -> _Layout:
    batch = spec.shape.index("batch") if "batch" in spec.shape else None
    time = _time_axis(spec, step.time)
    sizes = [int(size) for size in fixed.shape]

    places = sorted(axis for axis in (batch, time) if axis is not None)
    first = places[0] if places else 0
    last = places[-1] if places else -1
    return _Layout(
        outer=prod(sizes[:first]),
        middle=prod(sizes[first + 1 : last]) if len(places) == 2 else 1,
        inner=prod(sizes[last + 1 :]),
        each=1 if time is None else sizes[time],
        has_batch=batch is not None,
        has_time=time is not None,
        time_first=batch is not None and time is not None and time < batch,
    )


def _time_axis(spec: ArraySpec, time: int) -> int | None:
    """The axis that grows with time, if any.

    Raises:
        ExportError: another axis than this one and the batch has no fixed size, or it does not grow
            by the same size with every step.
    """
    found = None
    for axis, size in enumerate(spec.shape):
        if isinstance(size, int) or size == "batch":
            continue
        if found is not None or not _is_steady(size, time):
            raise ExportError(
                f"{spec.name!r} has an axis {size!r}, and the engine c goes over a batch and over "
                "time, one row and one step after the other. Use engine='ort-cpu'."
            )
        found = axis
    return found


def _is_steady(axis: Axis, time: int) -> bool:
    """Whether an axis grows with every step by what it has in one."""
    if names_in(axis) != {"time"}:
        return False
    try:
        first, second, third = (resolve([axis], {"time": time * n})[0] for n in (1, 2, 5))
    except KeyError:
        return False
    return first > 0 and (second, third) == (2 * first, 5 * first)


def _layout_texts(layouts: list[_Layout], interface: Interface) -> list[str]:
    ports = (*interface.inputs, *interface.states, *interface.outputs)
    names = [port.array.name for port in ports]
    texts = []
    for name, port, layout in zip(names, ports, layouts, strict=False):
        inner = f"{layout.inner} * sizeof({port.array.ctype})"
        flags = f"{layout.has_batch:d}, {layout.has_time:d}, {layout.time_first:d}"
        texts.append(
            f"static const layout layout_of_{name} = {{\n    {layout.outer}, {layout.middle}, "
            f"{inner}, {layout.each}, {flags}\n}};"
        )
    return texts


def _call(interface: Interface, step: FixedStep, body: StepSource) -> str:
    """The function that goes over rows and steps."""
    ins, outs, states = interface.inputs, interface.outputs, interface.states
    locals_, before, within, after = [], [], [], []
    arguments = {}

    for number, port in enumerate(ins):
        locals_.append(_local(port, "in"))
        within += _read(port, number, "in")
        arguments[port.array.name] = f"in_{port.array.name}"
    for number, port in enumerate(states, len(ins)):
        name, target = port.array.name, number + len(states) + len(outs)
        locals_ += [_local(port, end) for end in ("from", "even", "odd", "to")]
        before += _read(port, number, "from", step="0")
        within.append(
            f"{port.array.ctype} *to_{name} = step + 1 == steps ? {_part(port, target, 'to', '0')} "
            f": step % 2 ? part_odd_{name} : part_even_{name};"
        )
        arguments[name] = f"from_{name}"
        arguments[interface.nexts[name]] = f"to_{name}"
        after.append(f"from_{name} = to_{name};")
    writes = []
    for number, port in enumerate(outs, len(ins) + len(states)):
        name = port.array.name
        locals_.append(_local(port, "out"))
        within.append(f"{port.array.ctype} *out_{name} = {_part(port, number, 'out', 'step')};")
        arguments[name] = f"out_{name}"
        writes += _write(port, number, "out", "step")

    ends = []
    for number, port in enumerate(states, len(ins) + len(states) + len(outs)):
        ends += _write(port, number, "to", "0")
    order = ", ".join(arguments[array.name] for array in body.parameters)
    lines = [*within, f"{STEP}({order});", *writes, *after]
    return "\n".join(
        [
            f"const int64_t stateport_time = {step.time};",
            f"{_SIGNATURE};",
            _SIGNATURE,
            "{",
            "    const size_t batch = (size_t)rows_of_call, steps = (size_t)steps_of_call;",
            *(f"    {line}" for line in locals_),
            "    for (size_t row = 0; row < batch; ++row) {",
            *(f"        {line}" for line in before),
            "        for (size_t step = 0; step < steps; ++step) {",
            *(f"            {line}" for line in lines),
            "        }",
            *(f"        {line}" for line in ends),
            "    }",
            "}\n",
        ]
    )


def _local(port: Port, end: str) -> str:
    return f"{port.array.ctype} part_{end}_{port.array.name}[{port.array.size}];"


def _part(port: Port, number: int, end: str, step: str) -> str:
    name = port.array.name
    arguments = f"row, {step}, arrays[{number}], part_{end}_{name}"
    return f"part_of(&layout_of_{name}, batch, steps, {arguments})"


def _read(port: Port, number: int, end: str, step: str = "step") -> list[str]:
    name = port.array.name
    return [
        f"const {port.array.ctype} *{end}_{name} = {_part(port, number, end, step)};",
        *_copy(port, number, end, step, is_read=True),
    ]


def _write(port: Port, number: int, end: str, step: str) -> list[str]:
    return _copy(port, number, end, step, is_read=False)


def _copy(port: Port, number: int, end: str, step: str, *, is_read: bool) -> list[str]:
    """Copies a part between an array and memory of its own, where it is not in one piece."""
    name = port.array.name
    part = f"(char *)part_{end}_{name}"
    arguments = f"row, {step}, arrays[{number}], {part}, {is_read:d}"
    return [
        f"if (!in_one_piece(&layout_of_{name})) {{",
        f"    copy_part(&layout_of_{name}, batch, steps, {arguments});",
        "}",
    ]
