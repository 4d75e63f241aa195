# SPDX-License-Identifier: Apache-2.0
"""Which of the graph's inputs are lengths of rows, found by following the data."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir
import torch

from stateport.picking import sure

from ..capture.capture import Captured
from ..errors import ExportError
from ..layers import Recurrent, find
from ..network.example import Example
from ..network.explicit import Calls, Explicit
from ..network.isolation import evaluation_twin, unchanged_globals

# Operators whose first result holds nothing but numbers that their first operand holds.
_MOVES: Final = frozenset(
    {"Cast", "Expand", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Squeeze"}
    | {"TopK", "Transpose", "Unsqueeze"}
)
_SORTS: Final = frozenset({"Gather", "GatherElements", "TopK"})
_DRAWS: Final = 8


def packed(captured: Captured) -> list[Recurrent]:
    """The layers that run over packed sequences."""
    return [layer for layer in find(captured.model.graph) if layer.lengths is not None]


def with_row_lengths(explicit: Explicit, example: Example, captured: Captured) -> Example:
    """The example, in which those arguments are known that hold the lengths of rows.

    Raises:
        ExportError: a layer's lengths are no argument, so nothing would check that they fit.
    """
    graph = captured.model.graph
    positions = set()
    for layer in packed(captured):
        assert layer.lengths is not None
        positions.add(graph.inputs.index(_lengths_source(graph, layer, layer.lengths)))
    if not positions:
        return example

    in_any_order = example.with_lengths(positions, descending=False)
    return example.with_lengths(positions, descending=_needs_sorted(explicit, in_any_order))


def sorts_itself(layer: Recurrent) -> bool:
    """Whether forward itself sorts the rows that it packs: no state of them keeps its place."""
    value = layer.lengths
    node = None if value is None else value.producer()
    while node is not None and _moves_lengths(node) and node.inputs[0] is not None:
        if node.op_type in _SORTS:
            return True
        node = node.inputs[0].producer()
    return False


def _lengths_source(graph: ir.Graph, layer: Recurrent, lengths: ir.Value) -> ir.Value:
    """The graph's input that a layer's lengths are taken from; never computed."""
    _check_time(layer)
    value = lengths
    node = value.producer()

    while node is not None:
        operand = node.inputs[0] if node.inputs else None
        is_first_result = node.outputs[0] is value
        if operand is None or not is_first_result or not _moves_lengths(node):
            raise ExportError(
                f"The lengths of {layer} are computed in forward ({node.op_type}), so that "
                "nothing could check them before they reach the engine. Take the lengths "
                "themselves as an argument of forward."
            )
        value = operand
        node = value.producer()

    if value not in graph.inputs:
        raise ExportError(
            f"The lengths of {layer} are fixed in forward. Take them as an argument of forward, "
            "an int64 tensor of one number per row."
        )
    if value.dtype is None or not value.dtype.is_integer():
        raise ExportError(
            f"The lengths of {layer} come from the argument {value.name!r} of {value.dtype}. "
            "Take them as an int64 tensor."
        )
    return value


def _moves_lengths(node: ir.Node) -> bool:
    """Whether a node gives the same lengths again: all or some of them, in some order."""
    return node.op_type in _MOVES or _is_at_least_one(node)


def _is_at_least_one(node: ir.Node) -> bool:
    """Whether it is lengths.clamp(min=1), which changes no length that is allowed."""
    if node.op_type not in ("Clip", "Max") or len(node.inputs) != 2:
        return False
    if node.inputs[1] is None:
        return False

    bound = ir.convenience.get_const_tensor(node.inputs[1])
    return bound is not None and bool((bound.numpy() <= 1).all())


def _check_time(layer: Recurrent) -> None:
    """Checks that a layer with lengths runs over the axis that the lengths are checked against."""
    x = sure(layer.node.inputs[0])
    assert x.shape is not None

    axis = str(x.shape[0])
    if axis != "time":
        raise ExportError(
            f"The rows of {layer} have lengths, but it runs over the axis {axis!r}. Lengths can "
            "only be checked along the axis 'time': call the axis that in the example."
        )


def _needs_sorted(explicit: Explicit, example: Example) -> bool:
    """Whether the network takes lengths in decreasing order alone (enforce_sorted=True)."""
    network = evaluation_twin(explicit.network)
    for seed in range(_DRAWS):
        arguments = example.make(example.sizes, seed)
        try:
            with unchanged_globals(seed), torch.no_grad():
                run = getattr(network, explicit.method)
                Calls({}).run(run, arguments.args, arguments.kwargs)
        except RuntimeError as error:
            if "sorted in decreasing order" in str(error):
                return True
        except Exception:  # noqa: S110  # the run itself reports other failures
            pass
    return False
