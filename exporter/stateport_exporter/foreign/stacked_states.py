# SPDX-License-Identifier: Apache-2.0
"""An input that holds the first states of several layers, as PyTorch's `h0` of a stack does.

Each layer starts from its own part of the input: a slice, an element, or a piece of a split. Where
the graph does not return the next value, the layers' last states are put together to one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from ..graph.dataflow import size_of, targets
from .arguments import REVERSIBLE, add_reverse, move_of
from .constants import MOVES, integer_of
from .names import free_name
from .recurrent_operators import INITIAL_STATES, operand, result_at

#: Beyond the end of any axis.
_FAR: Final = 2**31


#: Axis, start, end, and whether the axis is dropped.
_Selection = tuple[int, int, int, bool]


@dataclass(frozen=True)
class _Part:
    """A part of an input along one axis, from which one operator starts.

    Attributes:
        axis: the axis of the input.
        start: the first index along it.
        end: the index behind the last one.
        drops_axis: whether the part is one element, without the axis.
        moves: the nodes between the part and the operator, from the operator upwards.
        last: the last state of the operator.
    """

    axis: int
    start: int
    end: int
    drops_axis: bool
    moves: tuple[ir.Node, ...]
    last: ir.Value


def stacked_pairs(graph: ir.Graph, known: Collection[str]) -> dict[str, str]:
    """Gives each input of states of several layers an output with its next value, in place.

    Args:
        graph: the graph.
        known: inputs whose next values are known already.

    Returns:
        The new pairs, {input: output}. An input is left out where its parts overlap, do not cover
        all of it, or lie along several axes; or where the graph returns its next value.
    """
    pairs = {}
    for source in graph.inputs:
        if source.name is None or source.name in known:
            continue

        parts = sorted(_parts_of(graph, source), key=lambda part: part.start)
        if _cover(parts, source) and not _is_returned(graph, source, parts):
            pairs[source.name] = _add_output(graph, source, parts)
    return pairs


def _parts_of(graph: ir.Graph, source: ir.Value) -> Iterator[_Part]:
    """The parts of an input that operators start from."""
    for node in list(graph):
        for result, position in enumerate(INITIAL_STATES.get(node.op_type, ()), 1):
            initial = operand(node, position)
            place = None if initial is None else _place_in(source, initial)
            if place is None:
                continue

            selection, moves = place
            yield _Part(*selection, moves, result_at(node, result))


def _place_in(source: ir.Value, initial: ir.Value) -> tuple[_Selection, tuple[ir.Node, ...]] | None:
    """Which part of an input an initial state is, and what moves it; None if it is no part."""
    moves = []
    while (move := move_of(initial, REVERSIBLE)) is not None:
        node, initial = move
        moves.append(node)

    selecting = initial.producer()
    if selecting is None or not selecting.inputs or selecting.inputs[0] is not source:
        return None
    selection = _selection(selecting, initial, source)
    if selection is None:
        return None
    return (selection, tuple(moves))


def _selection(node: ir.Node, selected: ir.Value, source: ir.Value) -> _Selection | None:
    """What a node selects of an input."""
    if source.shape is None:
        return None

    drops_axis = False
    if node.op_type == "Gather":
        bounds, drops_axis = _bounds_of_element(node)
    elif node.op_type == "Slice":
        bounds = _bounds_of_slice(node)
    elif node.op_type == "Split":
        bounds = _bounds_of_piece(node, selected)
    else:
        return None

    axis = _axis_of(node) % len(source.shape)
    size = source.shape[axis]
    if bounds is None or not isinstance(size, int):
        return None
    start, end = (min(bound + size if bound < 0 else bound, size) for bound in bounds)
    return axis, start, end, drops_axis


def _axis_of(node: ir.Node) -> int:
    """The axis along which a node selects; a Slice without axes has the first one."""
    if node.op_type == "Slice":
        return integer_of(operand(node, 3)) or 0
    if "axis" in node.attributes:
        return node.attributes["axis"].as_int()
    return 0


def _bounds_of_element(node: ir.Node) -> tuple[tuple[int, int] | None, bool]:
    """Start and end of the one element that a Gather takes, and whether its axis is dropped."""
    index = integer_of(operand(node, 1))
    indices = operand(node, 1)
    if index is None or indices is None or indices.shape is None:
        return None, False

    end = _FAR if index == -1 else index + 1
    return (index, end), len(indices.shape) == 0


def _bounds_of_slice(node: ir.Node) -> tuple[int, int] | None:
    """Start and end of a slice along one axis, without steps."""
    start = integer_of(operand(node, 1))
    end = integer_of(operand(node, 2))
    steps = operand(node, 4)
    skips = steps is not None and integer_of(steps) != 1
    if start is None or end is None or skips:
        return None
    return start, end


def _bounds_of_piece(node: ir.Node, piece: ir.Value) -> tuple[int, int] | None:
    """Start and end of one of the results of a Split; None where their sizes are not known."""
    number = list(node.outputs).index(piece)
    sizes = []
    for output in node.outputs:
        size = size_of(output, _axis_of(node))
        if size is None:
            return None
        sizes.append(size)
    start = sum(sizes[:number])
    return start, start + sizes[number]


def _cover(parts: Sequence[_Part], source: ir.Value) -> bool:
    """Whether sorted parts are all of an input, each element once."""
    if not parts or source.shape is None:
        return False

    end = 0
    for part in parts:
        if part.axis != parts[0].axis or part.start != end:
            return False
        end = part.end
    return end == source.shape[parts[0].axis]


def _is_returned(graph: ir.Graph, source: ir.Value, parts: Sequence[_Part]) -> bool:
    """Whether an output of the input's shape is moved from the last states of all parts."""
    outputs = set()
    for value in graph.outputs:
        if value.shape == source.shape:
            outputs.add(value)

    for part in parts:
        outputs &= set(targets(graph, part.last, MOVES))
    return bool(outputs)


def _add_output(graph: ir.Graph, source: ir.Value, parts: Sequence[_Part]) -> str:
    """Adds the last states, put together as the input is, as an output; returns its name."""
    axis = parts[0].axis
    lasts = []
    for part in parts:
        last = part.last
        if not last.name:  # a result that the node left out so far
            last.name = free_name(graph, f"{source.name}_last")
        for move in part.moves:
            last = add_reverse(graph, last, move)
        last_state = _with_axis(graph, last, axis) if part.drops_axis else last
        lasts.append(last_state)

    node = ir.node("Concat", lasts, {"axis": axis})
    joined = node.outputs[0]
    joined.name = free_name(graph, f"{source.name}_n")
    joined.type, joined.shape = source.type, source.shape
    graph.append(node)
    graph.outputs.append(joined)
    return str(joined.name)


def _with_axis(graph: ir.Graph, value: ir.Value, axis: int) -> ir.Value:
    """The value with an axis of one element."""
    axes = ir.node("Constant", [], {"value_ints": [axis]})
    node = ir.node("Unsqueeze", [value, axes.outputs[0]])
    graph.append(axes)
    graph.append(node)
    return node.outputs[0]
