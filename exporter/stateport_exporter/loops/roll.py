# SPDX-License-Identifier: Apache-2.0
"""Rolling up a loop: one call of `scan` takes the place of the equal blocks of a trace.

Three steps: `_Step` collects what goes into a block and comes out of it, `_ScanWriter` writes the
call of `scan` before the rest of the trace, and `_BodyWriter` writes the body, the program of one
step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

import torch

from stateport.picking import sure

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
from .blocks import (
    Loop,
    OperandPath,
    find_loop,
    locate_values,
    operand_at,
    time_axes,
    used_after,
)
from .joins import join_steps
from .step_numbers import Law, with_tensor
from .trace import OpWriter, TensorMeta, Unrolled, index_of, read_size, renumber_values

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


class _StepResult(NamedTuple):
    """A result of one step: the number of its operation in the step, and which of its results."""

    offset: int
    part: int | None


class _State(NamedTuple):
    """A result that the next step uses, and what the first step uses in its place."""

    result: _StepResult
    initial: Any


class _Sequence(NamedTuple):
    """A tensor that is sliced along an axis: its index in the first step, and the stride."""

    source: Ref | Slice
    dim: int
    first: int
    stride: int


class _StepNumber(NamedTuple):
    """A number of each step, which follows from the number of the step."""

    law: Law


@dataclass(frozen=True)
class _Rolled:
    """A trace with one loop rolled up, as the attributes of `Unrolled`."""

    ops: list[Op]
    outputs: tuple[Any, ...]
    metas: dict[int, Any]


def _rolled(trace: Unrolled, loop: Loop) -> _Rolled | None:
    """The trace with the loop rolled up, None where it cannot be."""
    step = _Step(trace, loop)
    if not step.has_operands_before(loop.start):
        return None
    return _ScanWriter(step).write()


def _replace_operations(trace: Unrolled, rolled: _Rolled) -> None:
    trace.ops, trace.outputs, trace.metas = rolled.ops, rolled.outputs, rolled.metas
    join_steps(trace)
    renumber_values(trace)


class _Step:
    """One step of a loop, read from the block that is its template.

    Attributes:
        moving: the operations whose results differ from step to step.
        hoisted: the operations that give the same in every step, which move before the loop.
        states: the results that the next step uses.
        sequences: the tensors of which every step takes one slice, and the numbers of the steps.
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

        self.states: list[_State] = []
        self.sequences: list[_Sequence | _StepNumber] = []
        self.invariants: list[Ref | Slice] = []
        self.sizes: list[str] = []
        self.outputs = self._results_used_after()
        for op in self.moving:
            self._collect(operands(op), self.offset_of(op), ())

    @property
    def next_states(self) -> list[_StepResult]:
        """The results that are the states of the next step."""
        return [state.result for state in self.states]

    def offset_of(self, op: Op) -> int:
        """The number of an operation in the step."""
        return self.locations[op.result][1]

    def meta(self, result: _StepResult) -> Any:
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
            if isinstance(sequence, _Sequence):
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

    def _results_used_after(self) -> list[_StepResult]:
        """The results that are used after the loop, in the order of their first use.

        A last state is used as it is, so it does not make its result an output.
        """
        last = len(self.loop.blocks) - 1
        states = self._results_of_block_before()

        results: dict[_StepResult, None] = {}
        for ref in used_after(self.trace, self.loop):
            if ref.value not in self.locations:
                continue

            block, offset = self.locations[ref.value]
            result = _StepResult(offset, ref.part)
            is_last_state = block == last and result in states
            if offset not in self.fixed and not is_last_state:
                results[result] = None
        return list(results)

    def _results_of_block_before(self) -> set[_StepResult]:
        """The results of the block before that the template uses."""
        results = set()
        for op in self.template:
            for ref in refs(operands(op)):
                if self._is_of_block_before(ref):
                    results.add(_StepResult(self.locations[ref.value][1], ref.part))
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

    def state_at(self, ref: Ref, offset: int, path: OperandPath) -> _State:
        """The state that an operand of the template is."""
        result = _StepResult(self.locations[ref.value][1], ref.part)
        position = sure(self.loop.blocks[0][offset])
        return _State(result, operand_at(self.trace.ops[position], path))

    def sequence_at(self, part: Slice, offset: int, path: OperandPath) -> _Sequence | None:
        """The sequence that a slice of the template is from, None if all steps share it."""
        stride = self.loop.strides.get((offset, path), 0)
        if stride == 0:
            return None
        first = index_of(part) - stride * self.loop.template
        return _Sequence(part.source, part.dim, first, stride)

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

    def number_at(self, offset: int, path: OperandPath) -> _StepNumber:
        """The number that follows from the number of the step."""
        return _StepNumber(self.loop.laws[offset, path])

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


class _ScanWriter:
    """Writes the call of `scan` and the operations that prepare its operands."""

    def __init__(self, step: _Step) -> None:
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
        body = _BodyWriter(step).write()
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

            result = _StepResult(offset, item.part)
            if result not in outputs:
                return Ref(results.value, states.index(result))
            stack = Ref(results.value, len(states) + outputs.index(result))
            return Slice(stack, 0, block)

        return change

    def _stack_meta(self, result: _StepResult) -> TensorMeta:
        meta = self.step.meta(result)
        return TensorMeta((self.count, *meta.shape), meta.dtype)

    def _initial_state(self, state: _State) -> Ref | Slice | None:
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

    def _sequence_of_steps(self, sequence: _Sequence | _StepNumber) -> Ref | Slice:
        """The sequence with its steps on the first axis, in the order of the loop."""
        if isinstance(sequence, _StepNumber):
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


class _BodyWriter:
    """Writes one step as a program: (states, slices, invariants) -> (next states, outputs)."""

    def __init__(self, step: _Step) -> None:
        self.step = step
        self.input_metas = self._describe_inputs()
        self.ops: list[Op] = []
        # The results of the body's operations, by the size or the value of the trace.
        self.size_refs: dict[str, Ref] = {}
        self.numbers: dict[int, int] = {}

    def write(self) -> Body | None:
        """The body, None where no input has a size that it needs."""
        step = self.step
        for size in step.sizes:
            axis = self._axis_of_size(size)
            if axis is None:
                return None
            self.size_refs[size] = self._add(_aten.sym_size.int, axis)

        for op in step.moving:
            self._write_operation(op)

        results = [*step.next_states, *step.outputs]
        outputs = tuple(map(self._body_result, results))
        return Body(
            Program(len(self.input_metas), tuple(self.ops), outputs),
            len(step.states),
            len(step.sequences),
            _innermost_module([op.path for op in step.moving]),
        )

    def _describe_inputs(self) -> list[Any]:
        step = self.step
        states = [*map(step.meta, step.next_states)]
        slices = [self._describe_slice(sequence) for sequence in step.sequences]
        invariants = [*map(step.trace.meta, step.invariants)]
        return [*states, *slices, *invariants]

    def _describe_slice(self, sequence: _Sequence | _StepNumber) -> Any:
        if isinstance(sequence, _StepNumber):
            return TensorMeta((), torch.float64)
        return self.step.trace.meta(Slice(sequence.source, sequence.dim, sequence.first))

    def _axis_of_size(self, size: str) -> tuple[Ref, int] | None:
        """The first input and axis with this dynamic size."""
        for number, meta in enumerate(self.input_metas):
            if isinstance(meta, TensorMeta) and size in meta.shape:
                return Ref(number), meta.shape.index(size)
        return None

    def _add(
        self,
        target: Any,
        args: tuple[Any, ...],
        kwargs: tuple[tuple[str, Any], ...] = (),
        path: str = "",
    ) -> Ref:
        number = len(self.input_metas) + len(self.ops)
        self.ops.append(Op(number, target, args, kwargs, path))
        return Ref(number)

    def _write_operation(self, op: Op) -> None:
        offset = self.step.offset_of(op)
        # Paths count positional operands first, as `operands` does.
        inner = [
            self._body_operand(operand, offset, (position,))
            for position, operand in enumerate(operands(op))
        ]

        args, values = tuple(inner[: len(op.args)]), inner[len(op.args) :]
        names = [name for name, _ in op.kwargs]
        kwargs = tuple(zip(names, values, strict=True))
        numbered = [path[0] for number, path in self.step.loop.laws if number == offset]
        if numbered:
            result = self._write_numbered(op, args, kwargs, numbered)
        else:
            result = self._add(op.target, args, kwargs, op.path)
        self.numbers[op.result] = result.value

    def _write_numbered(
        self,
        op: Op,
        args: tuple[Any, ...],
        kwargs: tuple[tuple[str, Any], ...],
        numbered: Sequence[int],
    ) -> Ref:
        """Writes an operation that has numbers of the step at these places."""
        if op.target is _aten.full.default:
            sizes, number = args
            filled = self._add(_aten.to.dtype, (number, dict(kwargs)["dtype"]))
            return self._add(_aten.expand.default, (filled, sizes), path=op.path)

        tensors = [position for position in range(len(args)) if position not in numbered]
        operand = args[tensors[0]] if tensors else None
        values = list(args)
        for position in numbered:
            if self._is_floating(op.args[tensors[0]]):
                values[position] = self._add(_aten.type_as.default, (values[position], operand))
        return self._add(with_tensor(op.target), tuple(values), kwargs, op.path)

    def _is_floating(self, operand: Any) -> bool:
        """Whether an operand of the trace is a tensor of floats."""
        if not isinstance(operand, Ref | Slice):
            return False
        dtype: torch.dtype = self.step.trace.meta(operand).dtype
        return dtype.is_floating_point

    def _body_result(self, result: _StepResult) -> Ref:
        op = self.step.template[result.offset]
        return Ref(self.numbers[op.result], result.part)

    def _body_operand(self, operand: Any, offset: int, path: OperandPath) -> Any:
        """An operand of the template as an operand in the body."""
        if isinstance(operand, tuple):
            items = enumerate(operand)
            return tuple(self._body_operand(item, offset, (*path, i)) for i, item in items)
        if isinstance(operand, Slice):
            return self._body_slice(operand, offset, path)
        if isinstance(operand, Ref):
            return self._body_value(operand, offset, path)
        if (offset, path) in self.step.loop.laws:
            number = self.step.number_at(offset, path)
            return Ref(len(self.step.states) + self.step.sequences.index(number))
        return operand

    def _body_slice(self, part: Slice, offset: int, path: OperandPath) -> Ref | Slice:
        step = self.step
        sequence = step.sequence_at(part, offset, path)
        if sequence is not None:
            ref = Ref(len(step.states) + step.sequences.index(sequence))
            return self._add(_aten.unsqueeze.default, (ref, part.dim)) if part.keep else ref

        if step.is_shared(part, offset, path):
            return self._body_invariant(part)
        return replace(part, source=self._body_operand(part.source, offset, (*path, 0)))

    def _body_value(self, ref: Ref, offset: int, path: OperandPath) -> Ref:
        step = self.step
        if step.is_state(ref):
            return Ref(step.states.index(step.state_at(ref, offset, path)))
        if not step.is_invariant(ref):
            return Ref(self.numbers[ref.value], ref.part)

        meta = step.trace.meta(ref)
        return self.size_refs[meta] if isinstance(meta, str) else self._body_invariant(ref)

    def _body_invariant(self, operand: Ref | Slice) -> Ref:
        first = len(self.step.states) + len(self.step.sequences)
        return Ref(first + self.step.invariants.index(operand))


def _add_new(items: list[Any], item: Any) -> None:
    if item not in items:
        items.append(item)


def _innermost_module(paths: Sequence[str]) -> str:
    """The path of the innermost module that all paths are in."""
    parts = [path.split(".") if path else [] for path in paths]

    common = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common)
