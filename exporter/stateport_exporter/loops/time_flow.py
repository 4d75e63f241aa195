# SPDX-License-Identifier: Apache-2.0
"""Where time goes in a trace: the values that have an axis of time, and the operations that mix it.

No table of operators says so. Each operation is run with one step of its operands changed: if the
same step of its result changes and no other, it keeps steps apart. Otherwise it mixes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from ..network.program import Op, Program, Ref, Slice, exchange_all, operands, refs
from ..network.scan import scan
from .regions import results_of, run_in_float64
from .trace import Unrolled


@dataclass(frozen=True)
class Place:
    """Where a value is.

    Attributes:
        level: how often steps were mixed, and came out as steps again, on the way to it; `FIXED`
            if no sequence goes into it.
        axis: its axis of time; None if it has none, or if that is unknown.
        mixes: whether the operation that computes it mixes steps.
    """

    level: int
    axis: int | None
    mixes: bool = False


FIXED: Final = -1


def places_of(
    trace: Unrolled, values: Mapping[Ref, Any], axes: Sequence[int | None], time: int
) -> dict[Ref, Place]:
    """The place of each value.

    Args:
        trace: a trace at a fixed number of steps.
        values: its values, from `values_of`.
        axes: the axis of time of each argument, None where it has none.
        time: the number of steps.
    """
    places = {Ref(number): Place(FIXED, None) for number in range(trace.inputs)}
    for number, axis in enumerate(axes):
        if axis is not None:
            places[Ref(number)] = Place(0, axis)
    for op in trace.ops:
        before = {ref: places[ref] for ref in refs(operands(op))}
        for result in results_of(trace, op):
            places[result] = _place_of(op, result, values, before, time)
    return places


def _place_of(
    op: Op, result: Ref, values: Mapping[Ref, Any], before: Mapping[Ref, Place], time: int
) -> Place:
    """The place of one result of an operation; `before` has those of its operands."""
    level = max((place.level for place in before.values()), default=FIXED)
    if level == FIXED or not isinstance(values[result], Tensor):
        return Place(FIXED, None)
    if op.target is scan:
        is_state = result.part is None or result.part < len(op.args[1])
        return Place(level + 1, None if is_state else 0, mixes=True)

    if all(place.level == FIXED or place.axis is not None for place in before.values()):
        with contextlib.suppress(RuntimeError, IndexError, ValueError):  # of other numbers
            place = _tried(_Trial(op, result, values, before), level, time)
            if place is not None:
                return place
    axis = _only_axis(values[result], time)
    return Place(level if axis is None else level + 1, axis, mixes=True)


def _only_axis(value: Tensor, time: int) -> int | None:
    """The only axis that has as many entries as there are steps."""
    axes = [axis for axis, size in enumerate(value.shape) if size == time]
    return axes[0] if len(axes) == 1 else None


def _tried(trial: _Trial, level: int, time: int) -> Place | None:
    """The place of a result, found by changing steps of the operands; None if it says nothing."""
    last = trial.changed(time - 1)
    axes = [axis for axis in range(last.ndim) if _is_only_at(last, axis, time - 1, time)]
    # Nothing changes where a part of the sequence is cut off.
    if not last.any() or len(axes) != 1:
        return None

    [axis] = axes
    for step in (0, time // 2):
        if not _is_only_at(trial.changed(step), axis, step, time):
            return Place(level + 1, axis, mixes=True)
    return Place(level, axis)


class _Trial:
    """One operation, which is run with a step of its operands changed."""

    def __init__(
        self, op: Op, result: Ref, values: Mapping[Ref, Any], places: Mapping[Ref, Place]
    ) -> None:
        needed = [*dict.fromkeys(refs(operands(op)))]
        numbers = {ref: Ref(position) for position, ref in enumerate(needed)}

        def change(item: Ref | Slice) -> Any:
            if isinstance(item, Slice):
                return replace(item, source=change(item.source))
            return numbers[item]

        own = replace(exchange_all(op, change), result=len(needed))
        self.program = Program(len(needed), (own,), (Ref(len(needed), result.part),))
        self.operands = [values[ref] for ref in needed]
        self.axes = [places[ref].axis for ref in needed]
        [self.expected] = run_in_float64(self.program, self.operands)

    def changed(self, step: int) -> Tensor:
        """Which numbers of the result change with this step of the operands."""
        operands = []
        for operand, axis in zip(self.operands, self.axes, strict=True):
            operands.append(operand if axis is None else _with_other_step(operand, axis, step))
        [result] = run_in_float64(self.program, operands)
        if result.shape != self.expected.shape:
            return torch.ones_like(self.expected, dtype=torch.bool)
        return differs(result, self.expected)


def _with_other_step(value: Tensor, axis: int, step: int) -> Tensor:
    """A value with other numbers in one of its steps, of the kind that it has."""
    changed = value.clone()
    part = changed.select(axis, step)
    if value.is_floating_point():
        random = torch.Generator().manual_seed(step)
        noise = torch.rand(part.shape, generator=random, dtype=torch.float64)
        part.copy_(part * (0.5 + noise / 4) + noise / 8)
    elif value.dtype == torch.bool:
        part.logical_not_()
    else:  # numbers that the value has, since others may be no index
        part.copy_(torch.where(part == value.max(), value.min(), value.max()))
    return changed


def differs(first: Tensor, second: Tensor) -> Tensor:
    """Where two results of one operation differ by more than rounding."""
    if not first.is_floating_point():
        return first != second
    size = torch.maximum(first.abs(), second.abs())
    far = ~((first - second).abs() <= 1e-9 * size)
    changed: Tensor = far & ~(first.isnan() & second.isnan()) & (first != second)
    return changed


def _is_only_at(changed: Tensor, axis: int, step: int, time: int) -> bool:
    """Whether no step of an axis changed but one."""
    if changed.shape[axis] != time:
        return False
    others = changed.clone()
    others.select(axis, step).zero_()
    return not bool(others.any())
