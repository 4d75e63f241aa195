# SPDX-License-Identifier: Apache-2.0
"""A straight-line program of PyTorch operators, in which a loop over time is one operation.

Values have numbers: first the program's inputs, then the results of its operations, in order.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor, fx, nn


def _slice(
    tensor: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Tensor:
    """PyTorch's operator for slices, as `tensor[..., start:end:step]`, which a mode sees."""
    keys = [slice(None)] * tensor.ndim
    keys[dim] = slice(start, None if end == sys.maxsize else end, step)
    return tensor[tuple(keys)]


#: PyTorch's recurrent operators, and those that may put steps before a sequence -> the public
#: functions that a `TorchFunctionMode` sees.
_SEEN_AS: Final = {
    torch.ops.aten.lstm.input: torch.lstm,
    torch.ops.aten.gru.input: torch.gru,
    torch.ops.aten.rnn_tanh.input: torch.rnn_tanh,
    torch.ops.aten.rnn_relu.input: torch.rnn_relu,
    torch.ops.aten.lstm_cell.default: torch.lstm_cell,
    torch.ops.aten.gru_cell.default: torch.gru_cell,
    torch.ops.aten.rnn_tanh_cell.default: torch.rnn_tanh_cell,
    torch.ops.aten.rnn_relu_cell.default: torch.rnn_relu_cell,
    torch.ops.aten.conv1d.default: torch.conv1d,
    torch.ops.aten.conv1d.padding: torch.conv1d,
    torch.ops.aten.conv2d.default: torch.conv2d,
    torch.ops.aten.conv2d.padding: torch.conv2d,
    torch.ops.aten.conv3d.default: torch.conv3d,
    torch.ops.aten.conv3d.padding: torch.conv3d,
    torch.ops.aten.conv_transpose1d.default: torch.conv_transpose1d,
    torch.ops.aten.conv_transpose2d.input: torch.conv_transpose2d,
    torch.ops.aten.conv_transpose3d.input: torch.conv_transpose3d,
    torch.ops.aten.pad.default: torch._C._nn.pad,
    torch.ops.aten.constant_pad_nd.default: torch.constant_pad_nd,
    torch.ops.aten.cat.default: torch.cat,
    torch.ops.aten.slice.Tensor: _slice,
    torch.ops.aten.cumsum.default: torch.cumsum,
    torch.ops.aten.cumprod.default: torch.cumprod,
    torch.ops.aten.cummax.default: torch.cummax,
    torch.ops.aten.cummin.default: torch.cummin,
    torch.ops.aten.logcumsumexp.default: torch.logcumsumexp,
    torch.ops.aten.arange.default: torch.arange,
    torch.ops.aten.arange.start: torch.arange,
    torch.ops.aten.arange.start_step: torch.arange,
}


@dataclass(frozen=True)
class Ref:
    """The value with this number; `part` selects one of an operation's several results."""

    value: int
    part: int | None = None


@dataclass(frozen=True)
class LinearInTime:
    """A whole number that depends on the number of time steps: factor * time + offset."""

    factor: int
    offset: int


@dataclass(frozen=True)
class Slice:
    """One slice of a tensor along an axis, which it keeps (with size 1) if `keep`."""

    source: Ref | Slice
    dim: int
    index: int | LinearInTime
    keep: bool = False


@dataclass(frozen=True)
class Op:
    """One call of `target`; arguments are constants, `Ref`s, `Slice`s, and tuples of them.

    `path` is the module that the author calls it in.
    """

    result: int
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()
    path: str = ""


@dataclass(frozen=True)
class Program:
    """Operations in order, and the operands that are returned.

    `structure` is the pytree whose leaves are the outputs, if they have one.
    """

    inputs: int
    ops: tuple[Op, ...]
    outputs: tuple[Any, ...]
    structure: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self

    def run(
        self, inputs: Sequence[Any], time: int | torch.SymInt = 0, *, seen: bool = False
    ) -> list[Any]:
        """The outputs for these inputs; with `seen`, recurrent layers are called as functions.

        A `TorchFunctionMode` sees these functions, but not PyTorch's operators behind them.
        """
        function = self._seen if seen else self._plain
        results: list[Any] = function(*inputs, time)
        return results

    @cached_property
    def _plain(self) -> Callable[..., list[Any]]:
        return _compile_program(self, {})

    @cached_property
    def _seen(self) -> Callable[..., list[Any]]:
        return _compile_program(self, _SEEN_AS)


@dataclass(frozen=True)
class Body:
    """One step: (states, slices, invariants) -> (next states, outputs of the step).

    `path` is the module whose forward loops.
    """

    program: Program
    states: int
    sequences: int
    path: str

    def __deepcopy__(self, memo: dict[int, Any]) -> Body:
        return self

    def step(
        self, states: Sequence[Tensor], slices: Sequence[Tensor], invariants: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The next states, and the outputs of this step."""
        results = self.program.run([*states, *slices, *invariants])
        return results[: self.states], results[self.states :]

    def stacked_states(self) -> list[int]:
        """For each state, the number of the output that is the state after the step, or -1."""
        outputs = list(self.program.outputs[self.states :])
        states = self.program.outputs[: self.states]
        return [outputs.index(state) if state in outputs else -1 for state in states]


def _compile_program(program: Program, substitutes: Mapping[Any, Any]) -> Callable[..., list[Any]]:
    """The program as one Python function of its inputs and the number of time steps."""
    writer = _GraphWriter(program.inputs, substitutes)
    for op in program.ops:
        writer.add(op)
    outputs = [*map(writer.write, program.outputs)]
    writer.graph.output(outputs)

    function: Callable[..., list[Any]] = fx.GraphModule(writer.root, writer.graph).forward
    return function


class _GraphWriter:
    """Writes operations into an fx graph, with `substitutes` in place of some functions."""

    def __init__(self, inputs: int, substitutes: Mapping[Any, Any]) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self._substitutes = substitutes
        self._values: dict[int, fx.Node] = {
            number: self.graph.placeholder(f"input_{number}") for number in range(inputs)
        }
        self._time = self.graph.placeholder("time")

    def add(self, op: Op) -> None:
        """Writes a call."""
        kwargs = {name: self.write(operand) for name, operand in op.kwargs}
        args = tuple(map(self.write, op.args))
        target = self._substitutes.get(op.target, op.target)
        self._values[op.result] = self.graph.call_function(target, args, kwargs)

    def write(self, operand: Any) -> Any:
        """Writes what an operand needs; returns what a call takes in its place."""
        if isinstance(operand, Ref):
            return self._write_ref(operand)
        if isinstance(operand, Slice):
            return self._write_slice(operand)
        if isinstance(operand, LinearInTime):
            multiple = self.graph.call_function(operator.mul, (self._time, operand.factor))
            return self.graph.call_function(operator.add, (multiple, operand.offset))
        if isinstance(operand, tuple):
            return [*map(self.write, operand)]
        if operand is torch.float32:  # float64 where the whole network computes in it
            return self.graph.call_function(torch.get_default_dtype)
        if isinstance(operand, Body):
            return self._write_body(operand)

        return operand

    def _write_ref(self, ref: Ref) -> fx.Node:
        value = self._values[ref.value]
        if ref.part is None:
            return value

        return self.graph.call_function(operator.getitem, (value, ref.part))

    def _write_slice(self, part: Slice) -> fx.Node:
        source, index = self.write(part.source), self.write(part.index)
        if part.keep:
            return self.graph.call_function(torch.narrow, (source, part.dim, index, 1))

        return self.graph.call_function(torch.select, (source, part.dim, index))

    def _write_body(self, body: Body) -> fx.Node:
        name = f"body_{len(vars(self.root))}"
        setattr(self.root, name, body)
        return self.graph.get_attr(name)


def refs(operand: Any) -> Iterator[Ref]:
    """The values in an operand."""
    if isinstance(operand, Ref):
        yield operand
    elif isinstance(operand, Slice):
        yield from refs(operand.source)
    elif isinstance(operand, tuple):
        for item in operand:
            yield from refs(item)


def slices(operand: Any) -> Iterator[Slice]:
    """The slices in an operand, outermost first."""
    if isinstance(operand, Slice):
        yield operand
        yield from slices(operand.source)
    elif isinstance(operand, tuple):
        for item in operand:
            yield from slices(item)


def operands(op: Op) -> tuple[Any, ...]:
    """All operands, positional ones first."""
    return (*op.args, *(value for _, value in op.kwargs))


def with_operands(op: Op, values: Sequence[Any]) -> Op:
    """The operation with other operands, in the order of `operands`."""
    names = [name for name, _ in op.kwargs]
    kwargs = zip(names, values[len(op.args) :], strict=True)
    return replace(op, args=tuple(values[: len(op.args)]), kwargs=tuple(kwargs))


def exchange(operand: Any, change: Callable[[Ref | Slice], Any]) -> Any:
    """The operand with `change` applied to every value and slice in it."""
    if isinstance(operand, Ref | Slice):
        return change(operand)
    if isinstance(operand, tuple):
        return tuple(exchange(item, change) for item in operand)

    return operand


def exchange_all(op: Op, change: Callable[[Ref | Slice], Any]) -> Op:
    """The operation with `change` applied to every value and slice in its operands."""
    kwargs = tuple((name, exchange(value, change)) for name, value in op.kwargs)

    return replace(op, args=exchange(op.args, change), kwargs=kwargs)


def renumber(operand: Any, numbers: Mapping[int, int]) -> Any:
    """The operand with other numbers for its values."""

    def change(item: Ref | Slice) -> Any:
        if isinstance(item, Slice):
            return replace(item, source=change(item.source))

        return Ref(numbers[item.value], item.part)

    return exchange(operand, change)
