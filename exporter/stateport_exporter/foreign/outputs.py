# SPDX-License-Identifier: Apache-2.0
"""Outputs of a graph that are last states and all that it gives, as of an encoder."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from ..states.naming import next_name
from .names import free_name


def keep_outputs(
    graph: ir.Graph, own: Collection[str], pairs: Mapping[str, str], known: Collection[str]
) -> dict[str, str]:
    """Leaves a graph its outputs if all of them were taken for last states, in place.

    Such an output stays an output, and the state gets a copy of it.

    Args:
        graph: the graph.
        own: the names of the outputs that it had before states were lifted.
        pairs: its states, {input: output}.
        known: the inputs of states that the caller or the names declare; these get no copy.

    Returns:
        The states, with the names of the copies.
    """
    if set(own) - set(pairs.values()):
        return dict(pairs)

    values = {value.name: value for value in graph.outputs}
    kept = {}
    for name, output in pairs.items():
        is_own = output in own and name not in known

        if is_own:
            kept[name] = _copy_as_output(graph, values[output], name)
        else:
            kept[name] = output
    return kept


def _copy_as_output(graph: ir.Graph, value: ir.Value, state: str) -> str:
    """Adds a copy of an output, as the next value of a state; returns its name."""
    name = next_name(state)
    node = ir.node("Identity", [value])
    copy = node.outputs[0]
    copy.name, copy.type, copy.shape = free_name(graph, name), value.type, value.shape
    graph.append(node)
    graph.outputs.append(copy)
    return str(copy.name)
