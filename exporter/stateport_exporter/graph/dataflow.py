# SPDX-License-Identifier: Apache-2.0
"""Following the data in a graph: what a value is computed from, moved from, and what it is like."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import filterfalse
from typing import Final

import onnx_ir as ir

from stateport.contract import Axis
from stateport.picking import among, positions_of

# Operators that move values without computing: a state is still the same state behind them. Their
# first operand is the data (all operands, for Concat).
MOVES: Final = frozenset(
    {"Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
# Operators that write the last operand into the first one.
_WRITES: Final = frozenset({"ScatterElements", "ScatterND"})
# Operators that take nothing but the size of their operand.
SIZES: Final = frozenset({"Shape", "Size"})


def axes(value: ir.Value) -> list[str]:
    """The sizes and names of a value's axes, as text; empty where the shape is unknown."""
    return [*map(str, dims_of(value))]


def shape_of(value: ir.Value) -> tuple[Axis, ...]:
    """A size or a name for each axis of a value; empty where the shape is unknown."""
    return tuple(dim if isinstance(dim, int) else str(dim) for dim in dims_of(value))


def dims_of(value: ir.Value) -> Sequence[int | ir.SymbolicDim]:
    """The dimensions of a value; empty where the shape is unknown."""
    return () if value.shape is None else value.shape.dims


def dim_of(value: ir.Value | None, axis: int) -> int | ir.SymbolicDim | None:
    """One dimension of a value; None where there is no value, or its shape is unknown."""
    if value is None or value.shape is None:
        return None
    return value.shape[axis]


def name_of_dim(dim: int | ir.SymbolicDim | None) -> str | None:
    """The name of a dimension, or the expression that it is; None where it has none."""
    if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
        return str(dim.value)
    return None


def size_of(value: ir.Value | None, axis: int) -> int | None:
    """The size of an axis of a value; None where it has a name, or nothing is known of it."""
    dim = dim_of(value, axis)
    return dim if isinstance(dim, int) else None


def all_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """The inputs of a graph, and the results of all nodes in it and in the graphs inside of it."""
    yield from graph.inputs
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs


def map_dims(
    function: Callable[[int | ir.SymbolicDim], int | str | ir.SymbolicDim | None],
    values: Iterable[ir.Value],
) -> None:
    """Replaces each dimension of values, where it is known, by what a function makes of it."""
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape(map(function, value.shape))


def forget_shapes(nodes: Iterable[ir.Node]) -> None:
    """Forgets the shapes of what nodes compute, except those of the graph's outputs."""
    for node in nodes:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def dtype_of(value: ir.Value) -> str:
    """The name of a value's dtype, "float32"; "unknown" where the graph does not have it."""
    if value.dtype is None:
        return "unknown"
    return value.dtype.numpy().name


def same_kind(value: ir.Value, reference: ir.Value) -> bool:
    """Whether two values have the same axes and the same dtype."""
    return axes(value) == axes(reference) and value.dtype == reference.dtype


def results_like(graph: ir.Graph, value: ir.Value, author: int) -> list[int]:
    """The positions of the results that have the axes and dtype of an argument.

    Only the author's own results count: the first `author` outputs of the graph.
    """
    return positions_of(lambda result: same_kind(result, value), graph.outputs[:author])


def behind(value: ir.Value) -> Iterator[ir.Value]:
    """A value and everything that it is computed from, without what only lends its size."""

    def operands(current: ir.Value) -> Iterable[ir.Value | None]:
        node = current.producer()
        if node is None or node.op_type in SIZES:
            return ()
        return node.inputs

    return reachable(value, operands)


def targets(graph: ir.Graph, value: ir.Value, moves: Container[str] = MOVES) -> list[ir.Value]:
    """The graph's outputs that hold a value, or a part of it, moved but not computed.

    `moves` are the operators that count as moving.
    """

    def moved_to(current: ir.Value) -> Iterator[ir.Value]:
        for node, position in current.uses():
            is_data = position == 0 or node.op_type == "Concat"
            if is_data and node.op_type in moves:
                yield from node.outputs

    moved = set(reachable(value, moved_to))
    return among(graph.outputs, moved)


def parts(value: ir.Value) -> set[ir.Value]:
    """The values that a value is put together from by moves alone; itself, if it is computed."""
    return set(filterfalse(_moved_operands, reachable(value, _moved_operands)))


def origin(value: ir.Value) -> ir.Value:
    """The value itself, behind the copies that PyTorch's exporter makes of repeated results."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def reachable(
    start: ir.Value, neighbours: Callable[[ir.Value], Iterable[ir.Value | None]]
) -> Iterator[ir.Value]:
    """A value and, once each, all values that are reached from it step by step."""
    seen: set[ir.Value] = set()
    waiting: list[ir.Value | None] = [start]

    while waiting:
        current = waiting.pop()
        if current is None or current in seen:
            continue

        seen.add(current)
        yield current
        waiting.extend(neighbours(current))


def moved_by(node: ir.Node) -> Sequence[ir.Value | None]:
    """The operands whose elements a node moves: all of Concat, the first of other moves."""
    return node.inputs if node.op_type == "Concat" else node.inputs[:1]


def _moved_operands(value: ir.Value) -> Sequence[ir.Value | None]:
    """The operands that a value was moved from; none where it was computed."""
    node = value.producer()
    if node is None:
        return ()

    if node.op_type in MOVES:
        return moved_by(node)
    if node.op_type in _WRITES:
        return (node.inputs[0], node.inputs[-1])
    return ()
