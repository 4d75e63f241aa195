# SPDX-License-Identifier: Apache-2.0
"""The values of a trace that is run, and the part of it that leads from some values to another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from ..network.isolation import computing_in
from ..network.program import Op, Program, Ref, Slice, exchange, exchange_all, operands, refs
from .trace import Unrolled, renumber_values

_aten: Final = torch.ops.aten


def values_of(trace: Unrolled, inputs: Sequence[Tensor]) -> dict[Ref, Any]:
    """All values of a trace, in the order in which they are computed.

    They are computed in float64, so that values that differ by rounding alone can be told from
    those that an author made nearly the same. Sizes are whole numbers.
    """
    places: list[Ref] = [*map(Ref, range(trace.inputs))]
    for op in trace.ops:
        places += results_of(trace, op)

    program = Program(trace.inputs, tuple(trace.ops), tuple(places))
    results = run_in_float64(program, inputs)
    return dict(zip(places, results, strict=True))


def results_of(trace: Unrolled, op: Op) -> list[Ref]:
    """The values that an operation computes."""
    meta = trace.metas[op.result]
    if isinstance(meta, list):
        return [Ref(op.result, part) for part in range(len(meta))]
    return [Ref(op.result)]


def run_in_float64(program: Program, inputs: Sequence[Any]) -> list[Any]:
    """The results of a program, with float64 in place of every other kind of floats."""
    in_float64 = [*map(_in_float64, inputs)]
    with torch.no_grad(), computing_in(torch.float64):
        return program.run(in_float64, seen=True)


def _in_float64(value: Any) -> Any:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if is_float else value


@dataclass(frozen=True)
class Region:
    """The operations that lead from some values of a trace to one.

    Attributes:
        starts: the values that it starts from.
        result: the value that it computes.
        used: the inputs of the trace that it needs for more than their sizes.
        program: takes the inputs of the trace, and then the starts.
    """

    starts: tuple[Ref, ...]
    result: Ref
    used: frozenset[int]
    program: Program

    def run(self, inputs: Sequence[Tensor], starts: Iterable[Tensor]) -> Tensor:
        """The result for these values, in float64."""
        [result] = run_in_float64(self.program, [*inputs, *starts])
        assert isinstance(result, Tensor)
        return result


def region(trace: Unrolled, starts: Sequence[Ref], result: Ref) -> Region:
    """The operations that lead from some values to another one."""
    needed = _operations_between(trace, {*starts}, result)
    count = trace.inputs + len(starts)
    numbers: dict[int, int] = {number: number for number in range(trace.inputs)}
    for op in needed:
        numbers[op.result] = count
        count += 1
    at_start = {start: Ref(trace.inputs + position) for position, start in enumerate(starts)}

    def change(item: Ref | Slice) -> Any:
        if isinstance(item, Slice):
            return replace(item, source=change(item.source))
        return at_start.get(item) or Ref(numbers[item.value], item.part)

    ops = []
    used = set[int]()
    for op in needed:
        changed = exchange_all(op, change)
        ops.append(replace(changed, result=numbers[op.result]))
        if op.target is not _aten.sym_size.int:
            used |= {ref.value for ref in refs(operands(changed)) if ref.value < trace.inputs}

    inputs = trace.inputs + len(starts)
    program = Program(inputs, tuple(ops), (change(result),))
    return Region(tuple(starts), result, frozenset(used), program)


def _operations_between(trace: Unrolled, starts: set[Ref], result: Ref) -> list[Op]:
    """The operations that a result needs, in order, without those before the starts."""
    operation = {op.result: op for op in trace.ops}
    needed, waiting = set[int](), [result]
    while waiting:
        ref = waiting.pop()
        if ref in starts or ref.value in needed or ref.value not in operation:
            continue
        needed.add(ref.value)
        waiting += refs(operands(operation[ref.value]))
    return [op for op in trace.ops if op.result in needed]


def replace_values(trace: Unrolled, new: Mapping[Ref, Ref], written: Sequence[Op]) -> None:
    """Uses new values in place of old ones, which operations compute that were written.

    These stand behind the first of the old values. What is no longer needed is left out.
    """

    def change(item: Ref | Slice) -> Any:
        if isinstance(item, Slice):
            return replace(item, source=change(item.source))
        return new.get(item, item)

    first = min(old.value for old in new)
    position = 1 + [op.result for op in trace.ops].index(first)
    after = [exchange_all(op, change) for op in trace.ops[position:]]
    trace.outputs = exchange(trace.outputs, change)
    trace.ops = _needed([*trace.ops[:position], *written, *after], trace.outputs)
    renumber_values(trace)


def _needed(ops: Sequence[Op], outputs: tuple[Any, ...]) -> list[Op]:
    """The operations that the outputs need."""
    needed = {ref.value for ref in refs(outputs)}
    kept = []
    for op in reversed(ops):
        if op.result in needed:
            needed |= {ref.value for ref in refs(operands(op))}
            kept.append(op)
    return kept[::-1]
