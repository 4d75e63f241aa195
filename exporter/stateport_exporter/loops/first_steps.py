# SPDX-License-Identifier: Apache-2.0
"""Loops whose first step differs, as `mean = x[:, 0]` and `if h is None` make it.

The state before such a loop is computed from the first step of a sequence. Two forms are known: the
loop begins with the second step, and what comes before it is the first step's state and result; or
it begins with the first step, from a state that this step gives. Here every block computes both,
the loop's step and what comes before the loop, and chooses by whether the loop has begun. That is
a state of its own. So all blocks are equal, and the loop begins with the first step.

A loop that begins with the second step may use the step before as well, as in
`x[:, t] - x[:, t - 1]`. The first block has none, so each block leaves a copy of its step to the
next one.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from ..network.program import (
    Op,
    Ref,
    Slice,
    exchange,
    exchange_all,
    operands,
    refs,
    slices,
    with_operands,
)
from .blocks import Loop, OperandPath, operand_at
from .step import LoopState, SlicedTensor, Step, StepResult
from .trace import OpWriter, TensorMeta, Unrolled, meta_of, read_size

_aten: Final = torch.ops.aten


def with_equal_first_step(trace: Unrolled, loop: Loop) -> Unrolled | None:
    """The trace with a loop whose first step is like the others.

    It computes the same. None if the loop's first state does not come from the first step, or in
    another way.
    """
    step = Step(trace, loop)
    sequences = [part for part in step.sequences if isinstance(part, SlicedTensor)]
    starts = {(sequence.first, sequence.stride) for sequence in sequences}
    if loop.laws or not starts or not starts <= {(0, 1), (1, 1)}:
        return None

    prologue = _Prologue(step, sequences)
    uses_step_before = len(starts) == 2
    gives_state = any(map(prologue.gives, (state.initial for state in step.states)))
    if not gives_state and not uses_step_before:
        return None
    return _EqualSteps(step, prologue, begins_later=(1, 1) in starts).write()


class _Prologue:
    """What a trace computes from the first step before a loop.

    Attributes:
        count: the number of steps of the whole sequence.
        ops: the operations.
    """

    def __init__(self, step: Step, sequences: Sequence[SlicedTensor]) -> None:
        self.trace = step.trace
        self.count = self.trace.meta(sequences[0].source).shape[sequences[0].dim]
        self.ops: list[Op] = []
        self._results: set[int] = set()
        before = self.trace.ops[: step.loop.start]
        of_sequences = _needed_for(before, [sequence.source for sequence in sequences])
        for op in before:
            if op.result not in of_sequences and self.gives(operands(op)):
                self.ops.append(op)
                self._results.add(op.result)

    def gives(self, operand: Any) -> bool:
        """Whether an operand has a value that depends on the first step."""
        if any(ref.value in self._results for ref in refs(operand)):
            return True
        return any(self.is_first_step(part) for part in slices(operand))

    def is_first_step(self, part: Slice) -> bool:
        """Whether a slice is the first step of a sequence as long as the loop's."""
        return part.index == 0 and self.trace.meta(part.source).shape[part.dim] == self.count

    def sees_other_steps(self) -> bool:
        """Whether an operation uses another step besides, so that it has no like in each block."""
        for op in self.ops:
            for part in slices(operands(op)):
                size = self.trace.meta(part.source).shape[part.dim]
                if size == self.count and part.index != 0:
                    return True
        return False


class _EqualSteps:
    """Writes the blocks of a loop again, with the choice between both kinds of steps."""

    def __init__(self, step: Step, prologue: _Prologue, *, begins_later: bool) -> None:
        self.step, self.prologue, self.begins_later = step, prologue, begins_later
        self.trace = step.trace
        self.count = len(step.loop.blocks) + begins_later
        self.writer = OpWriter(dict(step.trace.metas))
        #: What the first step has in place of a result of the loop's step.
        self.first_values = _first_values(step, prologue) if begins_later else {}
        #: For each shape that it has to fit, whether the loop has begun.
        self.begun: dict[tuple[int | str, ...], Ref] = {}
        #: What the next block gets for each state, and for each slice that it uses a block later.
        self.carried: dict[LoopState, Any] = {}
        self.earlier: dict[Slice, Any] = {}
        #: The results of the blocks that are written.
        self.results: list[dict[StepResult, Ref]] = []

    def write(self) -> Unrolled | None:
        """The trace; None if a result has no value in the first step, or another shape there."""
        step, trace = self.step, self.trace
        needed = step.outputs if self.begins_later else []
        if not self.first_values.keys() >= {*needed} or self.prologue.sees_other_steps():
            return None
        if not self._add_starts():
            return None

        for index in range(self.count):
            self._add_block(index)
        after = [self._operation_after(op) for op in trace.ops[step.loop.end :]]
        outputs = exchange(trace.outputs, self._result_after)
        before = trace.ops[: step.loop.start]
        ops = [*step.hoisted, *self.writer.ops, *after]
        # What gave the first state before is not needed any more.
        used = _needed_for([*before, *ops], outputs)
        ops = [*(op for op in before if op.result in used), *ops]
        return replace(trace, ops=ops, outputs=outputs, metas=self.writer.metas)

    def _add_starts(self) -> bool:
        """Writes what the first block gets in place of a block before it; whether that can be."""
        for state in self.step.states:
            meta = self.step.meta(state.result)
            start = state.initial
            if self.prologue.gives(start):
                if self.trace.meta(start) != meta:
                    return False
                start = self._filled(meta, 0)
            self.carried[state] = start

        for part in self._slices_of_the_step_before():
            if self.trace.meta(part.source).shape[part.dim] < self.count:
                return False
            self.earlier[part] = self._filled(self.trace.meta(part), 0)

        for result in (*self.step.outputs, *self.step.next_states):
            shape = _flag_shape(self.step.meta(result))
            if shape not in self.begun:
                self.begun[shape] = self._filled(TensorMeta(shape, torch.bool), 0)
        starts = (*self.carried.values(), *self.earlier.values(), *self.begun.values())
        return None not in starts

    def _slices_of_the_step_before(self) -> set[Slice]:
        """The slices that a loop uses which begins later, as slices of the first step."""
        found = set()
        for (offset, path), stride in self.step.loop.strides.items():
            part = operand_at(self.step.template[offset], path)
            if stride != 0 and self._is_of_step_before(part, offset, path):
                found.add(replace(part, index=0))
        return found

    def _is_of_step_before(self, part: Slice, offset: int, path: OperandPath) -> bool:
        """Whether a loop that begins with the second step begins with the first one here."""
        sequence = self.step.sequence_at(part, offset, path)
        return self.begins_later and sequence is not None and sequence.first == 0

    def _filled(self, meta: TensorMeta, value: int) -> Any:
        """A tensor of one value; None if no argument has one of its sizes."""
        sizes = tuple(read_size(self.writer, self.trace.arguments, size) for size in meta.shape)
        if None in sizes:
            return None
        kwargs = (("dtype", meta.dtype),)
        return self.writer.add(_aten.full.default, (sizes, value), meta, kwargs)

    def _add_block(self, index: int) -> None:
        """Writes the operations of one step: both kinds, and the choice."""
        first = self._add_prologue(index)
        if self.begins_later:
            results = self._add_step(index)
            for result in (*self.step.outputs, *self.step.next_states):
                results[result] = self._choice(results[result], first(self._first_value(result)))
        else:
            for state, carried in self.carried.items():
                if self.prologue.gives(state.initial):
                    self.carried[state] = self._choice(carried, first(state.initial))
            results = self._add_step(index)

        self.carried = {state: results[state.result] for state in self.carried}
        for part in self.earlier:
            own = replace(part, index=index)
            meta = self.trace.meta(part)
            self.earlier[part] = self.writer.add(_aten.clone.default, (own,), meta)
        self.results.append(results)
        for shape, flag in self.begun.items():
            # From what it was, so that the first step does what all others do.
            meta = self.writer.metas[flag.value]
            ones = self.writer.add(_aten.ones_like.default, (flag,), meta)
            self.begun[shape] = self.writer.add(_aten.bitwise_or.Tensor, (flag, ones), meta)

    def _first_value(self, result: StepResult) -> Any:
        """What the first step has in place of a result; a state that it leaves stays as it is."""
        if result in self.first_values:
            return self.first_values[result]
        return next(self.carried[state] for state in self.carried if state.result == result)

    def _choice(self, later: Any, first: Any) -> Ref:
        """The later value where the loop has begun, else the first."""
        meta = meta_of(later, self.writer.metas)
        flag = self.begun[_flag_shape(meta)]
        return self.writer.add(_aten.where.self, (flag, later, first), meta)

    def _add_prologue(self, index: int) -> Callable[[Any], Any]:
        """Writes what comes before the loop, for one step; what exchanges its operands."""
        numbers: dict[int, int] = {}

        def change(item: Ref | Slice) -> Any:
            if isinstance(item, Slice):
                is_first = self.prologue.is_first_step(item)
                source = change(item.source)
                return replace(item, source=source, index=index if is_first else item.index)
            return replace(item, value=numbers.get(item.value, item.value))

        for op in self.prologue.ops:
            numbers[op.result] = self._add_copy(exchange_all(op, change)).value
        return functools.partial(exchange, change=change)

    def _add_step(self, index: int) -> dict[StepResult, Ref]:
        """Writes the operations of the loop, for one step; its results."""
        step = self.step
        results: dict[StepResult, Ref] = {}
        numbers: dict[int, int] = {}

        def change(operand: Any, offset: int, path: OperandPath) -> Any:
            if isinstance(operand, tuple):
                items = enumerate(operand)
                return tuple(change(item, offset, (*path, number)) for number, item in items)
            if isinstance(operand, Slice):
                if self._is_of_step_before(operand, offset, path):
                    return self.earlier[replace(operand, index=0)]
                is_moving = step.sequence_at(operand, offset, path) is not None
                source = change(operand.source, offset, (*path, 0))
                return replace(operand, source=source, index=index if is_moving else operand.index)
            if isinstance(operand, Ref) and step.is_state(operand):
                return self.carried[step.state_at(operand, offset, path)]
            if isinstance(operand, Ref):
                return replace(operand, value=numbers.get(operand.value, operand.value))
            return operand

        for op in step.moving:
            offset = step.offset_of(op)
            values = change(operands(op), offset, ())
            numbers[op.result] = self._add_copy(with_operands(op, values)).value

        for result in (*step.outputs, *step.next_states):
            results[result] = Ref(numbers[step.template[result.offset].result], result.part)
        return results

    def _add_copy(self, op: Op) -> Ref:
        """Writes an operation with a new result."""
        result = self.writer.add(op.target, op.args, self.writer.metas[op.result], op.kwargs)
        self.writer.ops[-1] = replace(self.writer.ops[-1], path=op.path)
        return result

    def _operation_after(self, op: Op) -> Op:
        """An operation behind the loop, with the results of the new blocks."""
        values = _with_first_results(operands(op), self._first_results())
        return exchange_all(with_operands(op, values), self._result_after)

    def _first_results(self) -> dict[Ref, tuple[Any, Ref]]:
        """For each result of the old loop's first block, what the first step had in its place."""
        first: dict[Ref, tuple[Any, Ref]] = {}
        for value, (block, offset) in self.step.locations.items():
            for result in self.step.outputs:
                if block == 0 and result.offset == offset and result in self.first_values:
                    pair = self.first_values[result], self.results[0][result]
                    first[Ref(value, result.part)] = pair
        return first

    def _result_after(self, item: Ref | Slice) -> Any:
        """A value as what follows the loop uses it."""
        if isinstance(item, Slice):
            return replace(item, source=self._result_after(item.source))
        if item.value not in self.step.locations:
            return item

        block, offset = self.step.locations[item.value]
        if offset in self.step.fixed:
            return Ref(self.step.template[offset].result, item.part)
        return self.results[block + self.begins_later][StepResult(offset, item.part)]


def _needed_for(ops: Sequence[Op], values: Sequence[Any]) -> set[int]:
    """The results that these values are computed from, and the values themselves."""
    needed = {ref.value for ref in refs(tuple(values))}
    for op in reversed(ops):
        if op.result in needed:
            needed |= {ref.value for ref in refs(operands(op))}
    return needed


def _first_values(step: Step, prologue: _Prologue) -> dict[StepResult, Any]:
    """What comes before a loop in place of its results: first states, and the items before them.

    A result of every step is an item of a stack, and the item in front of the first block's is
    that of the first step.
    """
    values: dict[StepResult, Any] = {}
    for state in step.states:
        if prologue.gives(state.initial):
            values[state.result] = state.initial

    for op in step.trace.ops[step.loop.end :]:
        for items in operands(op):
            if isinstance(items, tuple):
                for result, value in _items_before(step, prologue, items):
                    values.setdefault(result, value)
    return values


def _items_before(
    step: Step, prologue: _Prologue, items: Sequence[Any]
) -> Iterator[tuple[StepResult, Any]]:
    for before, item in itertools.pairwise(items):
        if not isinstance(item, Ref) or item.value not in step.locations:
            continue
        block, offset = step.locations[item.value]
        is_made_before = isinstance(before, Ref) and before.value not in step.locations
        if block == 0 and (is_made_before or prologue.gives(before)):
            yield StepResult(offset, item.part), before


def _with_first_results(operand: Any, first: Mapping[Ref, tuple[Any, Ref]]) -> Any:
    """Operands with the result of the new first block in front of that of the old one."""
    if not isinstance(operand, tuple):
        return operand

    items = [_with_first_results(item, first) for item in operand]
    for number, item in enumerate(operand[1:]):
        if isinstance(item, Ref) and item in first and first[item][0] == operand[number]:
            items[number] = first[item][1]
    return tuple(items)


def _flag_shape(meta: TensorMeta) -> tuple[int | str, ...]:
    """The shape of a flag for each row: sizes that may differ from call to call, and ones."""
    return tuple(size if isinstance(size, str) else 1 for size in meta.shape)
