# SPDX-License-Identifier: Apache-2.0
"""Recurrent operators in a graph, in its branches and loops too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx_ir as ir

from ..graph.dataflow import size_of
from .levels import Level

#: The positions of each operator's initial states among its operands. The last states are the
#: results after the first one, in the same order.
INITIAL_STATES: Final = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,), "DynamicQuantizeLSTM": (5, 6)}
#: DynamicQuantizeLSTM is what ONNX Runtime's quantiser makes of an LSTM:
#: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md. Its operands up to
#: the states are those of an LSTM.
_DOMAINS: Final = {"DynamicQuantizeLSTM": ("com.microsoft",)}
_ROW_LENGTHS: Final = 4


def recurrent_nodes(
    graph: ir.Graph, levels: tuple[Level, ...] = ()
) -> Iterator[tuple[ir.Node, tuple[Level, ...]]]:
    """The recurrent operators, each with the levels from the graph down to it."""
    for node in list(graph):
        if is_recurrent(node):
            yield node, levels

        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                body = attribute.as_graph()
                yield from recurrent_nodes(body, (*levels, Level(node, body)))


def is_recurrent(node: ir.Node) -> bool:
    """Whether a node is a recurrent operator of ONNX's own, or its quantised form."""
    domains = _DOMAINS.get(node.op_type, ("", "ai.onnx"))
    return node.op_type in INITIAL_STATES and node.domain in domains


def is_bidirectional(node: ir.Node) -> bool:
    """Whether an operator runs both ways."""
    direction = node.attributes.get("direction")
    return direction is not None and direction.as_string() == "bidirectional"


def directions_of(node: ir.Node) -> int:
    """The number of directions in which an operator runs."""
    return 2 if is_bidirectional(node) else 1


def hidden_size(node: ir.Node) -> int | None:
    """The number of elements of one state of an operator; None where it is not known."""
    if "hidden_size" in node.attributes:
        return node.attributes["hidden_size"].as_int()

    return size_of(operand(node, 2), 2)


def is_batch_first(node: ir.Node) -> bool:
    """Whether the first axis of an operator's sequence is the batch; by default, it is time."""
    layout = node.attributes.get("layout")
    return layout is not None and layout.as_int() != 0


def operand(node: ir.Node, position: int) -> ir.Value | None:
    """The operand in a position; None where the node leaves it out."""
    if position < len(node.inputs):
        return node.inputs[position]
    return None


def result_at(node: ir.Node, position: int) -> ir.Value:
    """The result in a position; it is made if the node leaves it out."""
    count = len(node.outputs)
    if count <= position:
        node.resize_outputs(position + 1)
    for value in node.outputs[count:position]:
        value.name = ""  # ONNX's name for a result that is left out
    return node.outputs[position]


def row_lengths(node: ir.Node) -> ir.Value | None:
    """The operand that holds the length of each row; None where all rows are full."""
    return operand(node, _ROW_LENGTHS)
