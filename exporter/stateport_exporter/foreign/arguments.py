# SPDX-License-Identifier: Apache-2.0
"""Inputs of a graph that recurrent operators start from, and inputs that hold row lengths."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import onnx_ir as ir

from ..graph.dataflow import reachable, targets
from .constants import MOVES
from .names import free_name
from .recurrent_operators import INITIAL_STATES, operand, recurrent_nodes, row_lengths


def argument_of(graph: ir.Graph, value: ir.Value) -> ir.Value | None:
    """The graph's input that a value is, or is moved from; None where it is computed."""
    while value not in graph.inputs:
        node = value.producer()
        if node is None or node.op_type not in MOVES or node.inputs[0] is None:
            return None
        value = node.inputs[0]
    return value


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
            source = None if value is None else argument_of(graph, value)
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
            where the input and the last state may have different shapes.
    """
    if len(node.outputs) <= result:
        node.resize_outputs(result + 1)
    last = node.outputs[result]

    outputs = targets(graph, last, MOVES)
    if not outputs and source is initial:
        last.name = free_name(graph, f"{source.name}_n")
        last.type, last.shape = source.type, source.shape
        graph.outputs.append(last)
        return last
    return outputs[0] if len(outputs) == 1 else None


def lengths_of_rows(graph: ir.Graph) -> list[str]:
    """The names of the inputs that hold the lengths of rows."""
    names = []
    for node, _ in recurrent_nodes(graph):
        value = row_lengths(node)
        source = None if value is None else argument_of(graph, value)
        if source is not None and source.name is not None:
            names.append(source.name)
    return names
