# SPDX-License-Identifier: Apache-2.0
"""Rolling up a loop: one call of `scan` takes the place of the equal blocks of a trace.

`step` collects what goes into a block and comes out of it, and `body` writes it as a program. Here
the call of `scan` is written before the rest of the trace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import torch

from ..network.program import Op, Ref, Slice, exchange, exchange_all
from ..network.scan import scan
from .blocks import Loop, find_loop, time_axes
from .body import BodyWriter
from .joins import join_steps
from .step import LoopState, SlicedTensor, Step, StepNumber, StepResult
from .trace import OpWriter, TensorMeta, Unrolled, read_size, renumber_values

_aten: Final = torch.ops.aten


def roll(short: Unrolled, long: Unrolled) -> bool:
    """Rolls up the first loop in two traces of different lengths, in place.

    Returns False, and changes nothing, if there is none.
    """
    for source, dim in time_axes(short, long):
        short_loop = find_loop(short, source, dim)
        long_loop = find_loop(long, source, dim)
        if short_loop is None or long_loop is None:
            continue

        short_rolled = _rolled(short, short_loop)
        long_rolled = _rolled(long, long_loop)
        if short_rolled is not None and long_rolled is not None:
            _replace_operations(short, short_rolled)
            _replace_operations(long, long_rolled)
            short.sees_numbers |= bool(short_loop.laws)
            long.sees_numbers |= bool(long_loop.laws)
            return True
    return False


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

    def _sequence_of_steps(self, sequence: SlicedTensor | StepNumber) -> Ref | Slice:
        """The sequence with its steps on the first axis, in the order of the loop."""
        if isinstance(sequence, StepNumber):
            return sequence.law.write(self.writer, self.step_numbers)

        tensor, axis = sequence.source, sequence.dim
        is_forward = sequence.stride > 0
        lowest = sequence.first if is_forward else sequence.first - (self.count - 1)
        size = self.trace.meta(tensor).shape[axis]

        if lowest != 0 or self.count != size:
            tensor = self.writer.narrow(tensor, axis, lowest, self.count)
        if axis != 0:
            tensor = self.writer.move_axis(tensor, axis, 0)
        if not is_forward:
            tensor = self.writer.flip(tensor, 0)
        return tensor
