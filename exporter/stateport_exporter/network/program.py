"""A straight-line program of PyTorch operators, in which a loop over time is one operation.

Values have numbers: first the program's inputs, then what its operations give, in order.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

#: PyTorch's recurrent layers under the names by which others see them being called.
_SEEN_AS: Final = {
    torch.ops.aten.lstm.input: torch.lstm,
    torch.ops.aten.gru.input: torch.gru,
    torch.ops.aten.rnn_tanh.input: torch.rnn_tanh,
    torch.ops.aten.rnn_relu.input: torch.rnn_relu,
    torch.ops.aten.lstm_cell.default: torch.lstm_cell,
    torch.ops.aten.gru_cell.default: torch.gru_cell,
    torch.ops.aten.rnn_tanh_cell.default: torch.rnn_tanh_cell,
    torch.ops.aten.rnn_relu_cell.default: torch.rnn_relu_cell,
}


@dataclass(frozen=True)
class Ref:
    """The value with this number; `part` says which of an operation's several results."""

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
    """Operations in order, and what of their results is returned.

    `structure` is the pytree that the outputs are the leaves of, where they are.
    """

    inputs: int
    ops: tuple[Op, ...]
    outputs: tuple[Any, ...]
    structure: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self

    def run(
        self, given: Sequence[Any], time: int | torch.SymInt = 0, *, seen: bool = False
    ) -> list[Any]:
        """The outputs for these inputs; `seen` calls recurrent layers by their public names."""
        results: list[Any] = (self._seen if seen else self._plain)(*given, time)
        return results

    @cached_property
    def _plain(self) -> Callable[..., list[Any]]:
        return _compiled(self, {})

    @cached_property
    def _seen(self) -> Callable[..., list[Any]]:
        return _compiled(self, _SEEN_AS)


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


def _compiled(program: Program, instead: Mapping[Any, Any]) -> Callable[..., list[Any]]:
    """The program as one Python function of its inputs and the number of time steps."""
    graph, root = fx.Graph(), nn.Module()
    values: dict[int, fx.Node] = {
        number: graph.placeholder(f"input_{number}") for number in range(program.inputs)
    }
    time = graph.placeholder("time")

    def value(operand: Any) -> Any:
        if isinstance(operand, Ref):
            found = values[operand.value]
            if operand.part is None:
                return found
            return graph.call_function(operator.getitem, (found, operand.part))
        if isinstance(operand, Slice):
            source, index = value(operand.source), value(operand.index)
            if operand.keep:
                return graph.call_function(torch.narrow, (source, operand.dim, index, 1))
            return graph.call_function(torch.select, (source, operand.dim, index))
        if isinstance(operand, LinearInTime):
            multiple = graph.call_function(operator.mul, (time, operand.factor))
            return graph.call_function(operator.add, (multiple, operand.offset))
        if isinstance(operand, tuple):
            return [value(item) for item in operand]
        if operand is torch.float32:  # float64 where the whole network computes in it
            return graph.call_function(torch.get_default_dtype)
        if isinstance(operand, Body):
            name = f"body_{len(vars(root))}"
            setattr(root, name, operand)
            return graph.get_attr(name)
        return operand

    for op in program.ops:
        kwargs = {name: value(operand) for name, operand in op.kwargs}
        args = tuple(value(operand) for operand in op.args)
        values[op.result] = graph.call_function(instead.get(op.target, op.target), args, kwargs)
    graph.output([value(operand) for operand in program.outputs])
    function: Callable[..., list[Any]] = fx.GraphModule(root, graph).forward
    return function


def refs(operand: Any) -> Iterator[Ref]:
    """The values that an operand is made of."""
    if isinstance(operand, Ref):
        yield operand
    elif isinstance(operand, Slice):
        yield from refs(operand.source)
    elif isinstance(operand, tuple):
        for item in operand:
            yield from refs(item)


def slices(operand: Any) -> Iterator[Slice]:
    """The slices among the operands, outermost first."""
    if isinstance(operand, Slice):
        yield operand
        yield from slices(operand.source)
    elif isinstance(operand, tuple):
        for item in operand:
            yield from slices(item)


def operands(op: Op) -> tuple[Any, ...]:
    """All operands, positional ones first."""
    return (*op.args, *(value for _, value in op.kwargs))


def exchange(operand: Any, change: Callable[[Ref | Slice], Any]) -> Any:
    """The operand with every value and slice in it exchanged for what `change` makes of it."""
    if isinstance(operand, Ref | Slice):
        return change(operand)
    if isinstance(operand, tuple):
        return tuple(exchange(item, change) for item in operand)
    return operand


def exchange_all(op: Op, change: Callable[[Ref | Slice], Any]) -> Op:
    """The operation with its operands exchanged."""
    kwargs = tuple((name, exchange(value, change)) for name, value in op.kwargs)
    return replace(op, args=exchange(op.args, change), kwargs=kwargs)


def renumber(operand: Any, numbers: Mapping[int, int]) -> Any:
    """The operand with other numbers for its values."""

    def change(item: Ref | Slice) -> Any:
        if isinstance(item, Slice):
            return replace(item, source=change(item.source))
        return Ref(numbers[item.value], item.part)

    return exchange(operand, change)
