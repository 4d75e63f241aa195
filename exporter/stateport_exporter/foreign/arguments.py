# SPDX-License-Identifier: Apache-2.0
"""Inputs of a graph that recurrent operators start from, and inputs that hold row lengths."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import onnx_ir as ir

from stateport import Contract
from stateport.contract import has_time

from ..graph.dataflow import reachable, size_of, targets
from .constants import MOVES
from .names import free_name
from .recurrent_operators import INITIAL_STATES, operand, recurrent_nodes, result_at, row_lengths

#: Moves that keep all elements of a state, so that they can be reversed.
REVERSIBLE: Final = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose"}) | {
    "Unsqueeze"
}


def argument_of(graph: ir.Graph, value: ir.Value | None) -> ir.Value | None:
    """The graph's input that a value is, or is moved from; None where there is none."""
    if value is None:
        return None

    while value not in graph.inputs:
        move = move_of(value, MOVES)
        if move is None:
            return None
        _, value = move
    return value


def move_of(value: ir.Value, moves: Collection[str]) -> tuple[ir.Node, ir.Value] | None:
    """The node that moved a value, and what it moved; None where other nodes made the value.

    `moves` are the operators that count as moving.
    """
    node = value.producer()
    if node is None or node.op_type not in moves:
        return None

    moved = node.inputs[0]
    return None if moved is None else (node, moved)


def depends_on(value: ir.Value, names: Collection[str]) -> bool:
    """Whether a value is computed from inputs of these names, in branches and loops too."""
    sources = reachable(value, _sources_of)
    return any(each.producer() is None and each.name in names for each in sources)


def _sources_of(value: ir.Value) -> Iterator[ir.Value | None]:
    """What a value is computed from in one step; nothing for an input."""
    node = value.producer()
    if node is not None:
        yield from _sources(node)


def _sources(node: ir.Node) -> Iterator[ir.Value | None]:
    """A node's operands, and the results of the graphs inside of it."""
    yield from node.inputs
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().outputs


def explicit_pairs(graph: ir.Graph, known: Mapping[str, str]) -> dict[str, str]:
    """The inputs that operators start from, each with the output that gives its next value.

    If an input's next value is not an output yet, it becomes one. `known` are pairs that need not
    be looked for.
    """
    pairs: dict[str, str] = {}
    for node in list(graph):
        positions = INITIAL_STATES.get(node.op_type, ())
        for result, position in enumerate(positions, 1):
            value = operand(node, position)
            source = argument_of(graph, value)
            if source is None or source.name is None:
                continue
            if source.name in known or source.name in pairs:
                continue

            output = _output_of_last_state(graph, node, result, value, source)
            if output is not None and output.name is not None:
                pairs[source.name] = output.name
    return pairs


def _output_of_last_state(
    graph: ir.Graph, node: ir.Node, result: int, initial: ir.Value | None, source: ir.Value
) -> ir.Value | None:
    """The only output of the graph that an operator's last state goes to.

    Args:
        graph: the graph.
        node: the operator.
        result: the position of the last state among its results.
        initial: its initial state.
        source: the graph's input that the initial state is moved from.

    Returns:
        The output, which is new if the last state went to none; None where it goes to several, or
            where only a part of the input, or a copy of it, is the initial state.
    """
    last = result_at(node, result)

    outputs = []
    for output in targets(graph, last, MOVES):
        if _may_be(source, output):
            outputs.append(output)

    if outputs:
        if len(outputs) == 1:
            return outputs[0]
        return None

    moved = _move_back(graph, last, initial, source)
    if moved is None:
        return None
    moved.name = free_name(graph, f"{source.name}_n")
    moved.type, moved.shape = source.type, source.shape
    graph.outputs.append(moved)
    return moved


def _may_be(before: ir.Value, after: ir.Value) -> bool:
    """Whether an output may be the next value of an input, as far as their axes are known."""
    return before.shape is None or after.shape is None or len(before.shape) == len(after.shape)


def _move_back(
    graph: ir.Graph, last: ir.Value, initial: ir.Value | None, source: ir.Value
) -> ir.Value | None:
    """A last state, moved as the first one was, but the other way; None where that may differ."""
    moves = []
    while initial is not None and initial is not source:
        move = move_of(initial, REVERSIBLE)
        if move is None:
            return None
        node, initial = move
        moves.append(node)

    if moves and not last.name:  # a result that the node left out so far
        last.name = free_name(graph, f"{source.name}_last")
    for node in moves:
        last = add_reverse(graph, last, node)
    return last


def add_reverse(graph: ir.Graph, value: ir.Value, move: ir.Node) -> ir.Value:
    """Adds the reverse of one of the moves in `REVERSIBLE` at the end of the graph."""
    order = move.attributes.get("perm")
    if move.op_type == "Transpose" and order is not None:
        reverse = {"perm": np.argsort(order.as_ints()).tolist()}
        node = ir.node("Transpose", [value], reverse)
    elif move.op_type == "Transpose":
        node = ir.node("Transpose", [value])
    else:
        shape = ir.node("Shape", [move.inputs[0]])
        graph.append(shape)
        node = ir.node("Reshape", [value, shape.outputs[0]])

    node.outputs[0].type = value.type
    graph.append(node)
    return node.outputs[0]


def with_row_lengths(contract: Contract, graph: ir.Graph) -> Contract:
    """The contract, which says of the inputs that hold the lengths of rows that they do.

    Without a time axis there are no lengths that vary, so that the contract stays as it is.
    """
    if not has_time(contract):
        return contract

    names = {name for name, _ in _holders_of_lengths(graph)}
    inputs = []
    for spec in contract.inputs:
        described = replace(spec, lengths_of="time") if spec.name in names else spec
        inputs.append(described)
    return replace(contract, inputs=tuple(inputs))


def fixed_row_lengths(graph: ir.Graph) -> dict[str, int]:
    """By input that holds the lengths of rows, the number of steps of its operator.

    It is 1 where the file does not say it.
    """
    steps = {}
    for name, node in _holders_of_lengths(graph):
        count = size_of(node.inputs[0], 0)
        steps[name] = 1 if count is None else count
    return steps


def _holders_of_lengths(graph: ir.Graph) -> Iterator[tuple[str, ir.Node]]:
    """The names of the inputs that hold the lengths of rows, each with its operator."""
    for node, _ in recurrent_nodes(graph):
        value = row_lengths(node)
        source = argument_of(graph, value)
        if source is not None and source.name is not None:
            yield source.name, node
