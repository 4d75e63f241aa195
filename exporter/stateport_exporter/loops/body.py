# SPDX-License-Identifier: Apache-2.0
"""One step of a loop as a program: (states, slices, invariants) -> (next states, outputs)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from stateport.picking import instances_of

from ..network.program import Body, Op, Program, Ref, Slice, operands, with_operands
from .blocks import OperandPath
from .step import EachStep, OfSteps, Step, StepNumber, StepResult
from .step_numbers import with_tensor
from .trace import TensorMeta

_aten: Final = torch.ops.aten


class BodyWriter:
    """Writes one step as a program: (states, slices, invariants) -> (next states, outputs)."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.input_metas = self._describe_inputs()
        self.ops: list[Op] = []
        self.state_refs = [*map(Ref, range(len(step.states)))]
        # The results of the body's operations, by the size or the value of the trace.
        self.size_refs: dict[str, Ref] = {}
        self.numbers: dict[int, int] = {}

    def write(self) -> Body | None:
        """The body, None where no input has a size that it needs."""
        step = self.step
        self._add_zero_of_each_step()
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

    def _add_zero_of_each_step(self) -> None:
        """Adds the zero of each step to the first state, where a loop has no other sequence."""
        for each in instances_of(EachStep, self.step.sequences):
            add = _aten.bitwise_or.Tensor if each.dtype == torch.bool else _aten.add.Tensor
            zero = Ref(len(self.step.states))
            self.state_refs[0] = self._add(add, (self.state_refs[0], zero))

    def _describe_inputs(self) -> list[Any]:
        step = self.step
        states = [*map(step.meta, step.next_states)]
        slices = [self._describe_slice(sequence) for sequence in step.sequences]
        invariants = [*map(step.trace.meta, step.invariants)]
        return [*states, *slices, *invariants]

    def _describe_slice(self, sequence: OfSteps) -> Any:
        if isinstance(sequence, StepNumber):
            return TensorMeta((), torch.float64)
        if isinstance(sequence, EachStep):
            return TensorMeta((), sequence.dtype)
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
        inner = with_operands(op, self._body_operand(operands(op), offset, ()))
        args, kwargs = inner.args, inner.kwargs
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

    def _body_result(self, result: StepResult) -> Ref:
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
            return self.state_refs[step.states.index(step.state_at(ref, offset, path))]
        if not step.is_invariant(ref):
            return Ref(self.numbers[ref.value], ref.part)

        meta = step.trace.meta(ref)
        return self.size_refs[meta] if isinstance(meta, str) else self._body_invariant(ref)

    def _body_invariant(self, operand: Ref | Slice) -> Ref:
        first = len(self.step.states) + len(self.step.sequences)
        return Ref(first + self.step.invariants.index(operand))


def _innermost_module(paths: Sequence[str]) -> str:
    """The path of the innermost module that all paths are in."""
    parts = [path.split(".") if path else [] for path in paths]

    common = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common)
