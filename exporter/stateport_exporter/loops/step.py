# SPDX-License-Identifier: Apache-2.0
"""One step of a loop: what goes into a block of operations, and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from stateport.picking import sure

from ..network.program import Op, Ref, Slice, operands, refs
from .blocks import Loop, OperandPath, locate_values, operand_at, used_after
from .step_numbers import Law
from .trace import Unrolled, index_of


class StepResult(NamedTuple):
    """A result of one step: the number of its operation in the step, and which of its results."""

    offset: int
    part: int | None


class LoopState(NamedTuple):
    """A result that the next step uses, and what the first step uses in its place."""

    result: StepResult
    initial: Any


class SlicedTensor(NamedTuple):
    """A tensor that is sliced along an axis: its index in the first step, and the stride."""

    source: Ref | Slice
    dim: int
    first: int
    stride: int


class StepNumber(NamedTuple):
    """A number of each step, which follows from the number of the step."""

    law: Law


@dataclass(frozen=True)
class EachStep:
    """A zero for each step: how many steps a loop has that takes no slice.

    Attributes:
        dtype: that of the first state, to which it is added. Engines drop a sequence that nothing
            uses, and with it the number of steps.
    """

    dtype: torch.dtype


#: What a loop has one entry of for each step.
OfSteps = SlicedTensor | StepNumber | EachStep


class Step:
    """One step of a loop, read from the block that is its template.

    Attributes:
        moving: the operations whose results differ from step to step.
        hoisted: the operations that give the same in every step, which move before the loop.
        states: the results that the next step uses.
        sequences: the tensors of which every step takes one slice, and the numbers of the steps;
            one at least.
        invariants: the values from outside that are the same in every step.
        sizes: the dynamic sizes that the step uses, as text.
        outputs: the results that are used after the loop.
    """

    def __init__(self, trace: Unrolled, loop: Loop) -> None:
        self.trace = trace
        self.loop = loop
        self.locations = locate_values(trace, loop)
        template = loop.blocks[loop.template]
        self.template = [trace.ops[position] for position in template if position is not None]

        self.fixed = self._fixed_offsets()
        operations = list(enumerate(self.template))
        self.moving = [op for offset, op in operations if offset not in self.fixed]
        self.hoisted = [op for offset, op in operations if offset in self.fixed]

        self.states: list[LoopState] = []
        self.sequences: list[OfSteps] = []
        self.invariants: list[Ref | Slice] = []
        self.sizes: list[str] = []
        self.outputs = self._results_used_after()
        for op in self.moving:
            self._collect(operands(op), self.offset_of(op), ())
        if not self.sequences and self.states:
            self.sequences.append(EachStep(self.meta(self.states[0].result).dtype))

    @property
    def next_states(self) -> list[StepResult]:
        """The results that are the states of the next step."""
        return [state.result for state in self.states]

    def offset_of(self, op: Op) -> int:
        """The number of an operation in the step."""
        return self.locations[op.result][1]

    def meta(self, result: StepResult) -> Any:
        """Describes a result of the step."""
        op = self.template[result.offset]
        return self.trace.meta(Ref(op.result, result.part))

    def has_operands_before(self, start: int) -> bool:
        """Whether all that goes into the loop is computed before the operation at `start`."""
        available = set(range(self.trace.inputs))
        available |= {op.result for op in self.trace.ops[:start]}
        available |= {op.result for op in self.hoisted}
        return all(ref.value in available for ref in self._refs_from_outside())

    def _refs_from_outside(self) -> Iterator[Ref]:
        for invariant in self.invariants:
            yield from refs(invariant)
        for state in self.states:
            yield from refs(state.initial)
        for sequence in self.sequences:
            if isinstance(sequence, SlicedTensor):
                yield from refs(sequence.source)
        for op in self.hoisted:
            yield from refs(operands(op))

    def _fixed_offsets(self) -> set[int]:
        """The numbers of the operations that give the same in every step."""
        strides = self.loop.strides
        slicing = {offset for (offset, _), stride in strides.items() if stride != 0}
        slicing |= {offset for offset, _ in self.loop.laws}
        fixed: set[int] = set()

        def is_fixed(ref: Ref) -> bool:
            if ref.value not in self.locations:
                return True
            block, offset = self.locations[ref.value]
            return block == self.loop.template and offset in fixed

        for offset, op in enumerate(self.template):
            if offset not in slicing and all(map(is_fixed, refs(operands(op)))):
                fixed.add(offset)
        return fixed

    def _results_used_after(self) -> list[StepResult]:
        """The results that are used after the loop, in the order of their first use.

        A last state is used as it is, so it does not make its result an output.
        """
        last = len(self.loop.blocks) - 1
        states = self._results_of_block_before()

        results: dict[StepResult, None] = {}
        for ref in used_after(self.trace, self.loop):
            if ref.value not in self.locations:
                continue

            block, offset = self.locations[ref.value]
            result = StepResult(offset, ref.part)
            is_last_state = block == last and result in states
            if offset not in self.fixed and not is_last_state:
                results[result] = None
        return list(results)

    def _results_of_block_before(self) -> set[StepResult]:
        """The results of the block before that the template uses."""
        results = set()
        for op in self.template:
            for ref in refs(operands(op)):
                if self._is_of_block_before(ref):
                    results.add(StepResult(self.locations[ref.value][1], ref.part))
        return results

    def _is_of_block_before(self, ref: Ref) -> bool:
        location = self.locations.get(ref.value)
        return location is not None and location[0] == self.loop.template - 1

    def is_state(self, ref: Ref) -> bool:
        """Whether the template takes this value from the block before, and it differs by step."""
        return self._is_of_block_before(ref) and self.locations[ref.value][1] not in self.fixed

    def is_invariant(self, operand: Ref | Slice) -> bool:
        """Whether the operand is the same in every step."""
        for ref in refs(operand):
            location = self.locations.get(ref.value)
            if location is not None and location[1] not in self.fixed:
                return False
        return True

    def is_shared(self, part: Slice, offset: int, path: OperandPath) -> bool:
        """Whether a slice of the template, with the slices that it is taken of, is invariant."""
        inner = part.source
        if isinstance(inner, Slice):
            inner_path = (*path, 0)
            has_steps = self.sequence_at(inner, offset, inner_path) is not None
            return not has_steps and self.is_shared(inner, offset, inner_path)
        return self.is_invariant(inner)

    def state_at(self, ref: Ref, offset: int, path: OperandPath) -> LoopState:
        """The state that an operand of the template is."""
        result = StepResult(self.locations[ref.value][1], ref.part)
        position = sure(self.loop.blocks[0][offset])
        return LoopState(result, operand_at(self.trace.ops[position], path))

    def sequence_at(self, part: Slice, offset: int, path: OperandPath) -> SlicedTensor | None:
        """The sequence that a slice of the template is from, None if all steps share it."""
        stride = self.loop.strides.get((offset, path), 0)
        if stride == 0:
            return None
        first = index_of(part) - stride * self.loop.template
        return SlicedTensor(part.source, part.dim, first, stride)

    def _collect(self, operand: Any, offset: int, path: OperandPath) -> None:
        """Adds an operand of the operation number `offset` to what goes into the step."""
        if isinstance(operand, tuple):
            for index, item in enumerate(operand):
                self._collect(item, offset, (*path, index))
        elif isinstance(operand, Slice):
            self._collect_slice(operand, offset, path)
        elif isinstance(operand, Ref):
            self._collect_value(operand, offset, path)
        elif (offset, path) in self.loop.laws:
            _add_new(self.sequences, self.number_at(offset, path))

    def number_at(self, offset: int, path: OperandPath) -> StepNumber:
        """The number that follows from the number of the step."""
        return StepNumber(self.loop.laws[offset, path])

    def _collect_slice(self, part: Slice, offset: int, path: OperandPath) -> None:
        sequence = self.sequence_at(part, offset, path)
        if sequence is not None:
            _add_new(self.sequences, sequence)
        elif self.is_shared(part, offset, path):
            _add_new(self.invariants, part)
        else:
            self._collect(part.source, offset, (*path, 0))

    def _collect_value(self, ref: Ref, offset: int, path: OperandPath) -> None:
        if self.is_state(ref):
            _add_new(self.states, self.state_at(ref, offset, path))
            return
        if not self.is_invariant(ref):
            return

        meta = self.trace.meta(ref)
        if isinstance(meta, str):
            _add_new(self.sizes, meta)
        else:
            _add_new(self.invariants, ref)


def _add_new(items: list[Any], item: Any) -> None:
    if item not in items:
        items.append(item)
