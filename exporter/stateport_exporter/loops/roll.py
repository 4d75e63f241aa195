# SPDX-License-Identifier: Apache-2.0
"""Rolling up a loop: one call of `scan` takes the place of the equal blocks of a trace.

`step` collects what goes into a block and comes out of it, and `body` writes it as a program. Here
the call of `scan` is written before the rest of the trace.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import torch

from ..network.program import Op, Ref, Slice, exchange, exchange_all
from ..network.scan import scan
from .blocks import (
    Loop,
    Uses,
    calls_by_time,
    find_loop,
    time_axes,
    uses_of_call,
    uses_of_sequence,
)
from .body import BodyWriter
from .delays import with_delays
from .first_steps import with_equal_first_step
from .joins import join_steps
from .step import EachStep, LoopState, OfSteps, Step, StepNumber, StepResult
from .trace import OpWriter, TensorMeta, Unrolled, read_size, renumber_values

_aten: Final = torch.ops.aten


def roll(short: Unrolled, long: Unrolled) -> bool:
    """Rolls up the first loop in two traces of different lengths, in place.

    Returns False, and changes nothing, if there is none.
    """
    for source, dim in time_axes(short, long):
        uses_of = functools.partial(uses_of_sequence, source=source, dim=dim)
        if _roll_loop(short, long, uses_of):
            return True

    for call in calls_by_time(short, long):
        if _roll_loop(short, long, functools.partial(uses_of_call, call=call)):
            return True
    return False


#: Gives the operations in a trace of which each block of a loop has some.
_UsesOf = Callable[[Unrolled], Uses]
#: A loop, and the trace that it is in.
_Found = tuple[Unrolled, Loop]


def _roll_loop(short: Unrolled, long: Unrolled, uses_of: _UsesOf) -> bool:
    """Rolls up a loop around some operations, if there is one; whether it did."""
    short_loops, long_loops = _loops(short, uses_of), _loops(long, uses_of)
    for short_loop, long_loop in zip(short_loops, long_loops, strict=False):
        if _roll_both(short, long, short_loop, long_loop):
            return True
    return False


def _loops(trace: Unrolled, uses_of: _UsesOf) -> list[_Found]:
    """The loops around some operations, the longest first, in the trace and in other forms of it.

    Of loops that are as long, the one in the trace itself comes first, unless it starts from what
    is made of its own first step.
    """
    plain = _forms_with_loop(trace, uses_of)
    delayed: list[_Found] = []
    for period in uses_of(trace).lengths:
        form = with_delays(trace, period)
        if form is not None:
            delayed += _forms_with_loop(form, uses_of)

    starts_from_first_step = len(plain) > 1
    found = [*delayed, *plain] if starts_from_first_step else [*plain, *delayed]
    return sorted(found, key=lambda pair: -len(pair[1].blocks))


def _forms_with_loop(trace: Unrolled, uses_of: _UsesOf) -> list[_Found]:
    """The loop in a trace, if there is one, behind the one with an equal first step."""
    loop = find_loop(trace, uses_of(trace))
    if loop is None:
        return []

    found = [(trace, loop)]
    equal = with_equal_first_step(trace, loop)
    equal_loop = None if equal is None else find_loop(equal, uses_of(equal))
    if equal is not None and equal_loop is not None:
        found.insert(0, (equal, equal_loop))
    return found


def _roll_both(short: Unrolled, long: Unrolled, short_found: _Found, long_found: _Found) -> bool:
    """Rolls up a loop that was found in two traces, if it can be; whether it did."""
    short_rolled, long_rolled = _rolled(*short_found), _rolled(*long_found)
    if short_rolled is None or long_rolled is None:
        return False

    for trace, rolled, (_, loop) in (
        (short, short_rolled, short_found),
        (long, long_rolled, long_found),
    ):
        _replace_operations(trace, rolled)
        trace.sees_numbers |= bool(loop.laws)
    return True


@dataclass(frozen=True)
class _Rolled:
    """A trace with one loop rolled up, as the attributes of `Unrolled`."""

    ops: list[Op]
    outputs: tuple[Any, ...]
    metas: dict[int, Any]


def _rolled(trace: Unrolled, loop: Loop) -> _Rolled | None:
    """The trace with the loop rolled up, None where it cannot be."""
    step = Step(trace, loop)
    if not step.has_operands_before(loop.start):
        return None
    return _ScanWriter(step).write()


def _replace_operations(trace: Unrolled, rolled: _Rolled) -> None:
    trace.ops, trace.outputs, trace.metas = rolled.ops, rolled.outputs, rolled.metas
    join_steps(trace)
    renumber_values(trace)


class _ScanWriter:
    """Writes the call of `scan` and the operations that prepare its operands."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.trace = step.trace
        self.count = len(step.loop.blocks)
        self.writer = OpWriter(dict(step.trace.metas))

    def write(self) -> _Rolled | None:
        """The trace with the loop rolled up.

        None if a first state cannot be made like the later ones, or a size is unknown in the step.
        """
        step = self.step
        initial = [*map(self._initial_state, step.states)]
        sequences = [*map(self._sequence_of_steps, step.sequences)]
        body = BodyWriter(step).write()
        if body is None or None in initial:
            return None

        args = (body, tuple(initial), tuple(sequences), tuple(step.invariants))
        states = [*map(step.meta, step.next_states)]
        stacks = [*map(self._stack_meta, step.outputs)]
        results = self.writer.add(scan, args, [*states, *stacks])

        trace, loop = self.trace, step.loop
        exchange_value = self._exchange_for(results)
        before = trace.ops[: loop.start]
        after = [exchange_all(op, exchange_value) for op in trace.ops[loop.end :]]
        ops = [*before, *step.hoisted, *self.writer.ops, *after]
        return _Rolled(ops, exchange(trace.outputs, exchange_value), self.writer.metas)

    def _exchange_for(self, results: Ref) -> Callable[[Ref | Slice], Any]:
        """What exchanges values of the loop's blocks for the results of `scan`."""
        step = self.step
        states, outputs = step.next_states, step.outputs

        def change(item: Ref | Slice) -> Any:
            if isinstance(item, Slice):
                return replace(item, source=change(item.source))
            if item.value not in step.locations:
                return item

            block, offset = step.locations[item.value]
            if offset in step.fixed:
                return Ref(step.template[offset].result, item.part)

            result = StepResult(offset, item.part)
            if result not in outputs:
                return Ref(results.value, states.index(result))
            stack = Ref(results.value, len(states) + outputs.index(result))
            return Slice(stack, 0, block)

        return change

    def _stack_meta(self, result: StepResult) -> TensorMeta:
        meta = self.step.meta(result)
        return TensorMeta((self.count, *meta.shape), meta.dtype)

    def _initial_state(self, state: LoopState) -> Ref | Slice | None:
        """The first state, expanded to the shape that the state has later; None if it cannot be."""
        initial = state.initial
        if not isinstance(initial, Ref | Slice):
            return None

        meta, later_meta = self.trace.meta(initial), self.step.meta(state.result)
        if not isinstance(meta, TensorMeta) or not isinstance(later_meta, TensorMeta):
            return None
        if meta.dtype != later_meta.dtype:
            return None

        if meta.shape == later_meta.shape:
            return initial
        if len(meta.shape) > len(later_meta.shape):
            return None
        return self._expand(initial, later_meta)

    def _expand(self, tensor: Ref | Slice, meta: TensorMeta) -> Ref | None:
        """A tensor expanded to a shape, None if no argument has one of the shape's sizes."""
        sizes = tuple(read_size(self.writer, self.trace.arguments, size) for size in meta.shape)
        if None in sizes:
            return None
        return self.writer.add(_aten.expand.default, (tensor, sizes), meta)

    @cached_property
    def step_numbers(self) -> Ref:
        """The numbers of all steps, written once for all laws, so that they are one state."""
        meta = TensorMeta((self.count,), torch.int64)
        return self.writer.add(_aten.arange.default, (self.count,), meta)

    def _sequence_of_steps(self, sequence: OfSteps) -> Ref | Slice:
        """The sequence with its steps on the first axis, in the order of the loop."""
        if isinstance(sequence, StepNumber):
            return sequence.law.write(self.writer, self.step_numbers)
        if isinstance(sequence, EachStep):
            meta = TensorMeta((self.count,), sequence.dtype)
            kwargs = (("dtype", sequence.dtype),)
            return self.writer.add(_aten.zeros.default, ((self.count,),), meta, kwargs)

        tensor, axis = sequence.source, sequence.dim
        is_forward = sequence.stride > 0
        distance = abs(sequence.stride)
        last = sequence.first + sequence.stride * (self.count - 1)
        lowest = min(sequence.first, last)
        size = self.trace.meta(tensor).shape[axis]

        if distance > 1:
            tensor = self.writer.every(tensor, axis, lowest, distance, self.count)
        elif lowest != 0 or self.count != size:
            tensor = self.writer.narrow(tensor, axis, lowest, self.count)
        if axis != 0:
            tensor = self.writer.move_axis(tensor, axis, 0)
        if not is_forward:
            tensor = self.writer.flip(tensor, 0)
        return tensor
