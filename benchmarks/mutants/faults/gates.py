"""Faults in the gates of recurrent layers: their order, their activations, their options."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Final

import numpy as np
from onnx import ModelProto, NodeProto

from .fault import Applied, Change, Fault, at
from .graph import Array, attribute, body_of, constant, layers, recurrent, set_attribute
from .layer_weights import PARTS, directions_of, edit_gates, hidden_size, in_first_layer

GROUP: Final = "gates"

#: ONNX's order of gates, in PyTorch's numbers.
_ORDERS: Final = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "Scan": (0, 2, 3, 1)}

#: The activations of each layer as it should be.
_ACTIVATIONS: Final = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
}


def _swapped(first: int, second: int, part: str) -> Change:
    def edit(blocks: Array) -> Array:
        if blocks.shape[2] > max(first, second):
            blocks[:, :, [first, second]] = blocks[:, :, [second, first]]
        return blocks

    return in_first_layer(part, edit, edit_gates)


def _pytorch_order(model: ModelProto) -> Applied | None:
    node = recurrent(model)[0]
    order = _ORDERS.get(node.op_type)
    if order is None:
        return None
    inverse = list(np.argsort(order))
    for part in PARTS:
        edit_gates(model, node, part, lambda blocks: blocks[:, :, inverse])
    return at(node.name)


def _interleaved(blocks: Array) -> Array:
    """Every unit's gates side by side, as some frameworks keep them."""
    return blocks.swapaxes(2, 3)


def _one_zeroed(blocks: Array) -> Array:
    if blocks.shape[2] > 1:
        blocks[:, :, 1] = 0
    return blocks


def _activations(node: NodeProto) -> list[str]:
    found = attribute(node, "activations")
    if found is not None:
        return [name.decode() for name in found.strings]
    return _ACTIVATIONS[node.op_type] * directions_of(node)


def _replaced(old: str, new: str, which: int | None = None) -> Change:
    """Another activation in the first recurrent layer, at one place of each direction or at all."""

    def apply(model: ModelProto) -> Applied | None:
        node = recurrent(model)[0]
        if node.op_type == "Scan":
            inner = [inner for inner in body_of(node).node if inner.op_type == old]
            for chosen in inner if which is None else inner[which : which + 1]:
                chosen.op_type = new
            return at(node.name) if inner else None
        names = _activations(node)
        each = len(names) // directions_of(node)
        places = [place for place in range(each) if names[place] == old]
        places = places if which is None else places[which : which + 1]
        if not places:
            return None
        replaced = [new if i % each in places else name for i, name in enumerate(names)]
        set_attribute(node, "activations", replaced)
        return at(node.name)

    return apply


def _clipped(limit: float) -> Change:
    def apply(model: ModelProto) -> Applied | None:
        for node in layers(model)[:1]:
            set_attribute(node, "clip", limit)
            return at(node.name)
        return None

    return apply


def _coupled(model: ModelProto) -> Applied | None:
    node = recurrent(model)[0]
    if node.op_type != "LSTM":
        return None
    set_attribute(node, "input_forget", 1)
    return at(node.name)


def _reset_before(model: ModelProto) -> Applied | None:
    """Resets before the recurrent product, as the GRU's paper does and PyTorch does not."""
    node = recurrent(model)[0]
    if node.op_type != "GRU":
        return None
    set_attribute(node, "linear_before_reset", 0)
    return at(node.name)


def _peepholes(model: ModelProto) -> Applied | None:
    node = recurrent(model)[0]
    if node.op_type != "LSTM":
        return None
    values = np.full((directions_of(node), 3 * hidden_size(node)), 0.01)
    node.input.append(constant(model, values, np.float32))
    return at(node.name)


def _swaps() -> Iterator[Fault]:
    for part in PARTS:
        for first, second in combinations(range(4), 2):
            name = f"gates {first + 1} and {second + 1} swapped in {part}"
            yield Fault(name, GROUP, _swapped(first, second, part))


GATES: Final = (
    *_swaps(),
    Fault("gates in PyTorch's order", GROUP, _pytorch_order),
    Fault("gates interleaved in W", GROUP, in_first_layer("W", _interleaved, edit_gates)),
    Fault("gates interleaved in R", GROUP, in_first_layer("R", _interleaved, edit_gates)),
    Fault("one gate's recurrence zeroed", GROUP, in_first_layer("R", _one_zeroed, edit_gates)),
    Fault("candidate with sigmoid for tanh", GROUP, _replaced("Tanh", "Sigmoid", 0)),
    Fault("hidden state with sigmoid for tanh", GROUP, _replaced("Tanh", "Sigmoid", 1)),
    Fault("tanh replaced by relu", GROUP, _replaced("Tanh", "Relu")),
    Fault("tanh replaced by softsign", GROUP, _replaced("Tanh", "Softsign")),
    Fault("sigmoid replaced by hard sigmoid", GROUP, _replaced("Sigmoid", "HardSigmoid")),
    Fault("sums clipped at a half", GROUP, _clipped(0.5)),
    Fault("sums clipped at 1", GROUP, _clipped(1.0)),
    Fault("input and forget gate coupled", GROUP, _coupled),
    Fault("reset gate before the recurrent product", GROUP, _reset_before),
    Fault("peepholes added", GROUP, _peepholes),
)
