# SPDX-License-Identifier: Apache-2.0
"""Names for the states that a graph gets as inputs and outputs."""

from __future__ import annotations

import itertools
import re

import onnx_ir as ir


def state_prefix(graph: ir.Graph, node: ir.Node, *, alone: bool) -> str:
    """What the names of an operator's states begin with, in front of "h0" and "c0".

    It is the operator's name; it is empty if the operator is the only one (`alone`), and the graph
    has no value of these names.
    """
    is_free = not {"h0", "c0"} & _value_names(graph)
    if alone and is_free:
        return ""

    text = re.sub(r"\W+", "_", node.name or node.op_type.lower()).strip("_")
    return f"{text}_"


def free_name(graph: ir.Graph, name: str) -> str:
    """The name, with a number if a value of the graph has it already."""
    taken = _value_names(graph)
    if name not in taken:
        return name

    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return next(candidate for candidate in numbered if candidate not in taken)


def _value_names(graph: ir.Graph) -> set[str]:
    results = (value for node in graph for value in node.outputs)
    values = (*graph.inputs, *graph.initializers.values(), *results)
    return {value.name for value in values if value.name is not None}
