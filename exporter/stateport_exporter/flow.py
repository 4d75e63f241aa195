"""Following the data in a graph: what a value is computed from, moved from, and what it is like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    seen: set[ir.Value] = set()
    todo = [value]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        yield current
        node = current.producer()
        if node is not None and node.op_type not in ("Shape", "Size"):
            todo.extend(operand for operand in node.inputs if operand is not None)


def origin(value: ir.Value) -> ir.Value:
    """The value itself, behind the copies that PyTorch's exporter makes of repeated results."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def parts(value: ir.Value) -> set[ir.Value]:
    """The values that a value is put together from by moves alone; itself, where it is computed."""
    seen: set[ir.Value] = set()
    leaves: set[ir.Value] = set()
    todo = [value]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        node = current.producer()
        sources = () if node is None else _moved(node)
        if sources:
            todo.extend(source for source in sources if source is not None)
        else:
            leaves.add(current)
    return leaves


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
