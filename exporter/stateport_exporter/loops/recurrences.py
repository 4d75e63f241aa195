# SPDX-License-Identifier: Apache-2.0
"""Parallel scans: recurrences that are computed in rounds, found by what they compute.

y[t] = a[t] y[t - 1] + b[t] can be computed for all t in log2(T) rounds (Hillis and Steele 1986,
Blelloch 1990). There are many ways to write the rounds, and their number depends on the length.
So nobody reads them here: a trace is run, and values a, b and y that satisfy the equation at every
step are taken for a recurrence. One call of `scan` computes y in place of the rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from ..network.isolation import computing_in
from ..network.program import (
    Body,
    Op,
    Program,
    Ref,
    Slice,
    exchange,
    exchange_all,
    operands,
    refs,
)
from ..network.scan import scan
from .trace import OpWriter, TensorMeta, Unrolled, read_size, renumber_values

_aten: Final = torch.ops.aten

#: Of a state (0), and of a factor (1) and a summand (2) of this step.
_STEP: Final = Body(
    Program(
        3,
        (
            Op(3, _aten.mul.Tensor, (Ref(1), Ref(0))),
            Op(4, _aten.add.Tensor, (Ref(3), Ref(2))),
        ),
        (Ref(4), Ref(4)),
    ),
    states=1,
    sequences=2,
    path="",
)


@dataclass(frozen=True)
class _Recurrence:
    """y[t] = a[t] y[t - 1] + b[t] along an axis, which all three have."""

    factor: Ref
    summand: Ref
    result: Ref
    axis: int


def replace_rounds(trace: Unrolled, inputs: Sequence[Sequence[Tensor]], time: int) -> bool:
    """Writes recurrences that are computed in rounds as calls of `scan`, in place.

    Args:
        trace: a trace at a fixed number of steps.
        inputs: values of its inputs, at these sizes: several of them, because values that differ
            on some data alone may be the same on other.
        time: the number of steps.

    Returns:
        Whether it had any.
    """
    has_rounds = False
    while (found := _first_recurrence(trace, inputs, time)) is not None:
        _replace(trace, found)
        has_rounds = True
    return has_rounds


def _first_recurrence(
    trace: Unrolled, inputs: Sequence[Sequence[Tensor]], time: int
) -> _Recurrence | None:
    """The recurrence whose result is computed first."""
    runs = [_values(trace, values) for values in inputs]
    mixed = _behind_rounds(trace)
    for result, y in runs[0].items():
        if result.value not in mixed:
            continue
        for axis, size in enumerate(y.shape):
            found = _recurrence_of(result, axis, runs) if size == time else None
            if found is not None:
                return found
    return None


def _values(trace: Unrolled, inputs: Sequence[Tensor]) -> dict[Ref, Tensor]:
    """The values of floats of a trace that is run, in the order in which they are computed.

    They are computed in float64, so that values that differ by rounding alone can be told from
    those that an author made nearly the same.
    """
    places: list[Ref] = [*map(Ref, range(trace.inputs))]
    for op in trace.ops:
        meta = trace.metas[op.result]
        if isinstance(meta, TensorMeta):
            places.append(Ref(op.result))
        elif isinstance(meta, list):
            places += [Ref(op.result, part) for part in range(len(meta))]

    program = Program(trace.inputs, tuple(trace.ops), tuple(places))
    in_float64 = [value.double() if value.is_floating_point() else value for value in inputs]
    with torch.no_grad(), computing_in(torch.float64):
        results = program.run(in_float64, seen=True)
    values = {}
    for place, value in zip(places, results, strict=True):
        if isinstance(value, Tensor) and value.is_floating_point():
            values[place] = value
    return values


def _behind_rounds(trace: Unrolled) -> set[int]:
    """The values that a part of a sequence went into, and no loop since."""
    behind: set[int] = set()
    for op in trace.ops:
        if op.target is scan:
            continue
        if op.target in _PARTS or any(ref.value in behind for ref in refs(operands(op))):
            behind.add(op.result)
    return behind


#: Operators that take a part of a sequence, or shift it.
_PARTS: Final = (
    _aten.slice.Tensor,
    _aten.narrow.default,
    _aten.constant_pad_nd.default,
    _aten.pad.default,
    _aten.roll.default,
    _aten.index.Tensor,
    _aten.cat.default,
)


def _recurrence_of(
    result: Ref, axis: int, runs: Sequence[Mapping[Ref, Tensor]]
) -> _Recurrence | None:
    """The recurrence that a value is the result of along an axis, in all runs.

    Of values that are the same the last one is taken, which has gone through all that precedes the
    rounds.
    """
    values = runs[0]
    y = values[result]
    steps = y.shape[axis]
    if steps < 3 or not y.isfinite().all():
        return None

    earlier = [*_earlier(result, values)][::-1]
    for summand in earlier:
        b = values[summand]
        if b.shape != y.shape or not _is_close(y.select(axis, 0), b.select(axis, 0)):
            continue
        if _is_close(y, b):
            return None  # y is the summand itself, moved
        for factor in earlier:
            found = _Recurrence(factor, summand, result, axis)
            if all(_holds(found, run) for run in runs):
                return found
    return None


def _holds(found: _Recurrence, values: Mapping[Ref, Tensor]) -> bool:
    """Whether values satisfy the equation. What is not finite says nothing."""
    a, b, y = values[found.factor], values[found.summand], values[found.result]
    axis, steps = found.axis, y.shape[found.axis]
    if a.ndim != y.ndim or a.shape[axis] != steps or not _expands(a, y):
        return False
    if not y.isfinite().all():
        return True

    before = y.narrow(axis, 0, steps - 1)
    computed = a.narrow(axis, 1, steps - 1) * before + b.narrow(axis, 1, steps - 1)
    return _is_close(computed, y.narrow(axis, 1, steps - 1))


def _earlier(result: Ref, values: Mapping[Ref, Tensor]) -> Iterator[Ref]:
    """The values that are computed before a result."""
    for place in values:
        if place.value == result.value:
            return
        yield place


def _expands(tensor: Tensor, other: Tensor) -> bool:
    """Whether a tensor can be expanded to the shape of another one."""
    sizes = zip(tensor.shape, other.shape, strict=True)
    return all(size in (1, wanted) for size, wanted in sizes)


def _is_close(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-9, atol=1e-12)


def _replace(trace: Unrolled, found: _Recurrence) -> None:
    """Writes a recurrence as a call of `scan`, and leaves out what is no longer needed."""
    writer = OpWriter(trace.metas)
    y = _write_scan(writer, trace, found)

    def change(item: Ref | Slice) -> Any:
        if isinstance(item, Slice):
            return replace(item, source=change(item.source))
        return y if item == found.result else item

    numbers = [op.result for op in trace.ops]
    position = 1 + numbers.index(found.result.value)
    after = [exchange_all(op, change) for op in trace.ops[position:]]
    trace.outputs = exchange(trace.outputs, change)
    trace.ops = _needed([*trace.ops[:position], *writer.ops, *after], trace.outputs)
    renumber_values(trace)


def _write_scan(writer: OpWriter, trace: Unrolled, found: _Recurrence) -> Ref:
    """Writes the operations that compute a recurrence step by step."""
    meta, axis = trace.meta(found.summand), found.axis
    shape = (*meta.shape[:axis], *meta.shape[axis + 1 :])
    step = TensorMeta(shape, meta.dtype)
    sizes = tuple(read_size(writer, trace.arguments, size) for size in shape)
    start = writer.add(_aten.full.default, (sizes, 0), step, (("dtype", meta.dtype),))

    factor = writer.move_axis(found.factor, axis, 0)
    summand = writer.move_axis(found.summand, axis, 0)
    stack = TensorMeta((meta.shape[axis], *shape), meta.dtype)
    looped = writer.add(scan, (_STEP, (start,), (factor, summand), ()), [step, stack])
    return writer.move_axis(Ref(looped.value, 1), 0, axis)


def _needed(ops: Sequence[Op], outputs: tuple[Any, ...]) -> list[Op]:
    """The operations that the outputs need."""
    needed = {ref.value for ref in refs(outputs)}
    kept = []
    for op in reversed(ops):
        if op.result in needed:
            needed |= {ref.value for ref in refs(operands(op))}
            kept.append(op)
    return kept[::-1]
