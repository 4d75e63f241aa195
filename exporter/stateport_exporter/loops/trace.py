# SPDX-License-Identifier: Apache-2.0
"""A network traced at one number of time steps: a list of operations, with loops written out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..network.program import Op, Ref, Slice, renumber


@dataclass(frozen=True)
class TensorMeta:
    """A tensor's shape and dtype. Dynamic sizes are text, the others are whole numbers."""

    shape: tuple[int | str, ...]
    dtype: torch.dtype


@dataclass
class Unrolled:
    """The operations of one trace, in the order in which forward called them.

    Values have numbers. The inputs come first: the tensors among the arguments, then parameters and
    constants by name.

    Attributes:
        arguments: the number of tensors among forward's arguments.
        names: the names of the parameters and constants.
        constants: the constants by name.
        ops: the operations.
        outputs: what forward returns, as operands.
        structure: the pytree that the outputs are the leaves of.
        metas: a description of every value: a `TensorMeta`, a list of them for several results, or
            the text of a symbolic size.
        multiple: the number of steps that each pass of a loop takes.
        sees_numbers: whether a loop that was rolled up sees the number of its step.
    """

    arguments: int
    names: list[str]
    constants: dict[str, Tensor]
    ops: list[Op]
    outputs: tuple[Any, ...]
    structure: Any
    metas: dict[int, Any] = field(repr=False)
    multiple: int = 1
    sees_numbers: bool = False

    @property
    def inputs(self) -> int:
        """The number of inputs."""
        return self.arguments + len(self.names)

    def meta(self, operand: Ref | Slice) -> Any:
        """Describes an operand, as `metas` describes values."""
        return meta_of(operand, self.metas)


class OpWriter:
    """Writes operations with new results, and describes each result in `metas`."""

    def __init__(self, metas: dict[int, Any]) -> None:
        self.metas = metas
        self.ops: list[Op] = []
        self._next = max(metas) + 1

    def add(
        self,
        target: Any,
        args: tuple[Any, ...],
        meta: Any,
        kwargs: tuple[tuple[str, Any], ...] = (),
    ) -> Ref:
        """Adds one operation and returns its result."""
        self.ops.append(Op(self._next, target, args, kwargs))
        self.metas[self._next] = meta
        self._next += 1
        return Ref(self._next - 1)

    def narrow(self, tensor: Ref | Slice, axis: int, start: int, length: int) -> Ref:
        """Takes `length` steps of an axis, from `start` on."""
        shape, dtype = self._shape_and_dtype(tensor)
        shape[axis] = length

        meta = TensorMeta(tuple(shape), dtype)
        return self.add(torch.narrow, (tensor, axis, start, length), meta)

    def every(self, tensor: Ref | Slice, axis: int, start: int, distance: int, count: int) -> Ref:
        """Takes `count` steps of an axis, from `start` on, that are `distance` apart."""
        shape, dtype = self._shape_and_dtype(tensor)
        shape[axis] = count

        meta = TensorMeta(tuple(shape), dtype)
        end = start + distance * (count - 1) + 1
        args = (tensor, axis, start, end, distance)
        return self.add(torch.ops.aten.slice.Tensor, args, meta)

    def flip(self, tensor: Ref | Slice, axis: int) -> Ref:
        """Reverses an axis."""
        return self.add(torch.flip, (tensor, (axis,)), meta_of(tensor, self.metas))

    def move_axis(self, tensor: Ref | Slice, source: int, target: int) -> Ref:
        """Moves one axis."""
        shape, dtype = self._shape_and_dtype(tensor)
        shape.insert(target, shape.pop(source))
        return self.add(torch.movedim, (tensor, source, target), TensorMeta(tuple(shape), dtype))

    def unsqueeze(self, tensor: Ref | Slice, axis: int) -> Ref:
        """Inserts an axis of size 1."""
        shape, dtype = self._shape_and_dtype(tensor)
        shape.insert(axis, 1)
        return self.add(torch.unsqueeze, (tensor, axis), TensorMeta(tuple(shape), dtype))

    def flatten(self, tensor: Ref | Slice, axis: int) -> Ref:
        """Joins an axis and the one after it."""
        shape, dtype = self._shape_and_dtype(tensor)
        shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
        return self.add(torch.flatten, (tensor, axis, axis + 1), TensorMeta(tuple(shape), dtype))

    def _shape_and_dtype(self, tensor: Ref | Slice) -> tuple[list[Any], torch.dtype]:
        meta = meta_of(tensor, self.metas)
        return list(meta.shape), meta.dtype


def meta_of(operand: Ref | Slice, metas: Mapping[int, Any]) -> Any:
    """Describes an operand, from the descriptions of all values."""
    if isinstance(operand, Ref):
        meta = metas[operand.value]
        return meta if operand.part is None else meta[operand.part]

    source = meta_of(operand.source, metas)
    before = source.shape[: operand.dim]
    sliced = (1,) if operand.keep else ()
    after = source.shape[operand.dim + 1 :]
    return TensorMeta((*before, *sliced, *after), source.dtype)


def index_of(part: Slice) -> int:
    """The index of a slice in a trace, where it does not depend on the number of time steps."""
    assert isinstance(part.index, int)
    return part.index


def read_size(writer: OpWriter, arguments: int, size: int | str) -> int | Ref | None:
    """A size as an operand; a dynamic one is read from the first argument that has it.

    None if none has it. `arguments` is the number of arguments, which are the first values.
    """
    if isinstance(size, int):
        return size
    for number in range(arguments):
        shape = writer.metas[number].shape
        if size in shape:
            args = (Ref(number), shape.index(size))
            return writer.add(torch.ops.aten.sym_size.int, args, size)
    return None


def add_constants(trace: Unrolled, constants: Mapping[str, Tensor]) -> dict[int, int]:
    """Adds constants to the inputs of a trace.

    Returns:
        the new number of each value that the trace had before.
    """
    before, count = trace.inputs, len(constants)
    numbers = {old: old if old < before else old + count for old in trace.metas}
    trace.ops = [_renumber_operation(op, numbers) for op in trace.ops]
    trace.outputs = renumber(trace.outputs, numbers)
    trace.metas = {numbers[old]: meta for old, meta in trace.metas.items()}

    for number, (name, value) in enumerate(constants.items(), before):
        trace.names.append(name)
        trace.constants[name] = value
        trace.metas[number] = TensorMeta(tuple(value.shape), value.dtype)
    return numbers


def renumber_values(trace: Unrolled) -> None:
    """Numbers values in order, so that two traces with the same operations agree."""
    numbers = {number: number for number in range(trace.inputs)}
    for op in trace.ops:
        numbers[op.result] = len(numbers)

    trace.ops = [_renumber_operation(op, numbers) for op in trace.ops]
    trace.outputs = renumber(trace.outputs, numbers)
    trace.metas = {new: trace.metas[old] for old, new in numbers.items()}


def _renumber_operation(op: Op, numbers: dict[int, int]) -> Op:
    kwargs = tuple((name, renumber(value, numbers)) for name, value in op.kwargs)
    args = renumber(op.args, numbers)
    return replace(op, result=numbers[op.result], args=args, kwargs=kwargs)
