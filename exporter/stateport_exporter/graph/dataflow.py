"""Following the data in a graph: what a value is computed from, moved from, and what it is like."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Final

import onnx_ir as ir

# Operators that move values without computing: a state is still the same state behind them. Their
# first operand is the data (all operands, for Concat).
MOVES: Final = frozenset(
    {"Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
# Operators that write the last operand into the first one.
_WRITES: Final = frozenset({"ScatterElements", "ScatterND"})


def axes(value: ir.Value) -> list[str]:
    """The sizes and names of a value's axes, as text."""
    return [str(dim) for dim in value.shape or ()]


def behind(value: ir.Value) -> Iterator[ir.Value]:
    """A value and all that it is computed from; what only lends its size is left out."""

    def sources(current: ir.Value) -> Iterator[ir.Value | None]:
        node = current.producer()
        if node is not None and node.op_type not in ("Shape", "Size"):
            yield from node.inputs

    return _reached(value, sources)


def targets(graph: ir.Graph, value: ir.Value, moves: Container[str] = MOVES) -> list[ir.Value]:
    """The graph's outputs that a value goes to, moved but not computed, whole or as a part.

    `moves` are the operators that count as moving.
    """

    def moved_to(current: ir.Value) -> Iterator[ir.Value]:
        for node, position in current.uses():
            if node.op_type in moves and (position == 0 or node.op_type == "Concat"):
                yield from node.outputs

    reached = set(_reached(value, moved_to))
    return [output for output in graph.outputs if output in reached]


def _reached(
    start: ir.Value, following: Callable[[ir.Value], Iterable[ir.Value | None]]
) -> Iterator[ir.Value]:
    """A value and, once each, all others that are reached from it step by step."""
    seen: set[ir.Value] = set()
    todo: list[ir.Value | None] = [start]
    while todo:
        current = todo.pop()
        if current is None or current in seen:
            continue
        seen.add(current)
        yield current
        todo.extend(following(current))


def origin(value: ir.Value) -> ir.Value:
    """The value itself, behind the copies that PyTorch's exporter makes of repeated results."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def parts(value: ir.Value) -> set[ir.Value]:
    """The values that a value is put together from by moves alone; itself, where it is computed."""
    return {part for part in _reached(value, _moved_from) if not _moved_from(part)}


def _moved_from(value: ir.Value) -> Sequence[ir.Value | None]:
    """The operands that a value was moved from; none where it was computed."""
    node = value.producer()
    return () if node is None else _moved(node)


def _moved(node: ir.Node) -> Sequence[ir.Value | None]:
    """The operands that a node moves; none where it computes."""
    if node.op_type == "Concat":
        return node.inputs
    if node.op_type in MOVES:
        return node.inputs[:1]
    if node.op_type in _WRITES:
        return (node.inputs[0], node.inputs[-1])
    return ()


def results_like(graph: ir.Graph, value: ir.Value, author: int) -> list[int]:
    """The positions of the author's results that have the axes and dtype of an argument."""
    return [
        position
        for position, output in enumerate(graph.outputs[:author])
        if axes(output) == axes(value) and output.dtype == value.dtype
    ]
