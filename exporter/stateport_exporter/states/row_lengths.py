"""Which of the graph's inputs are lengths of rows, found by following the data."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir
import torch

from ..capture.capture import Captured
from ..errors import ExportError
from ..layers import Recurrent, find
from ..network.example import Example
from ..network.explicit import Calls, Explicit
from ..network.isolation import evaluation_twin, unchanged_globals

# Operators whose first result holds nothing but numbers that their first operand holds.
_KEEPS: Final = frozenset(
    {"Cast", "Expand", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Squeeze"}
    | {"TopK", "Transpose", "Unsqueeze"}
)
_SORTS: Final = frozenset({"Gather", "GatherElements", "TopK"})
_DRAWS: Final = 8


def packed(captured: Captured) -> list[Recurrent]:
    """The layers that run over packed sequences."""
    return [layer for layer in find(captured.model.graph) if layer.lengths is not None]


def with_row_lengths(explicit: Explicit, example: Example, captured: Captured) -> Example:
    """The example, with the lengths of rows that the network packs told from other arguments.

    Raises:
        ExportError: a layer's lengths are no argument, so nothing would check that they fit.
    """
    graph = captured.model.graph
    positions = {
        graph.inputs.index(_source(graph, layer, layer.lengths))
        for layer in packed(captured)
        if layer.lengths is not None
    }
    if not positions:
        return example
    anyhow = example.with_lengths(positions, descending=False)
    return example.with_lengths(positions, descending=_wants_sorted(explicit, anyhow))


def sorts_itself(layer: Recurrent) -> bool:
    """Whether forward itself sorts the rows that it packs: no state of them keeps its place."""
    value = layer.lengths
    node = None if value is None else value.producer()
    while node is not None and _keeps(node) and node.inputs[0] is not None:
        if node.op_type in _SORTS:
            return True
        node = node.inputs[0].producer()
    return False


def _source(graph: ir.Graph, layer: Recurrent, lengths: ir.Value) -> ir.Value:
    """The graph's input that a layer's lengths are taken from; never computed."""
    _check_time(layer)
    value, node = lengths, lengths.producer()
    while node is not None:
        operand = node.inputs[0] if node.inputs else None
        if node.outputs[0] is not value or operand is None or not _keeps(node):
            raise ExportError(
                f"The lengths of {layer} are computed in forward ({node.op_type}), so that "
                "nothing could check them before they reach the engine. Take the lengths "
                "themselves as an argument of forward."
            )
        value, node = operand, operand.producer()
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


def _keeps(node: ir.Node) -> bool:
    return node.op_type in _KEEPS or _is_at_least_one(node)


def _is_at_least_one(node: ir.Node) -> bool:
    """Whether it is lengths.clamp(min=1), which no length that is allowed is changed by."""
    if node.op_type not in ("Clip", "Max") or len(node.inputs) != 2 or node.inputs[1] is None:
        return False
    bound = ir.convenience.get_const_tensor(node.inputs[1])
    return bound is not None and bool((bound.numpy() <= 1).all())


def _check_time(layer: Recurrent) -> None:
    x = layer.node.inputs[0]
    assert x is not None
    assert x.shape is not None
    axis = str(x.shape[0])
    if axis != "time":
        raise ExportError(
            f"With lengths of its own for each row, {layer} runs over the axis {axis!r}. The "
            "lengths can only be checked where that is the axis 'time' of the example."
        )


def _wants_sorted(explicit: Explicit, example: Example) -> bool:
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
        except Exception:  # noqa: S110  # of other failures the run itself will tell
            pass
    return False
