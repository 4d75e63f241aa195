"""Faults in the directions and layers of recurrent nodes, and in what stands around them."""

from __future__ import annotations

from typing import Final

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from .fault import Applied, Change, Fault, at
from .graph import (
    Array,
    attribute,
    behind,
    constant,
    contract_of,
    detach,
    edit_initializer,
    insert,
    layers,
    nodes_of,
    operand,
    recurrent,
    replace,
    result_of,
    set_attribute,
)
from .layer_weights import PARTS, directions_of, edit_weight, hidden_size, weight_of


def _reversed(model: ModelProto) -> Applied | None:
    node = recurrent(model)[0]
    if directions_of(node) == 2:
        return None
    if node.op_type == "Scan":
        set_attribute(node, "scan_input_directions", [1])
        set_attribute(node, "scan_output_directions", [1])
    else:
        set_attribute(node, "direction", "reverse")
    return at(node.name)


def _loop_attribute(name: str) -> Change:
    """A loop that reads, or writes, its sequences from the end."""

    def apply(model: ModelProto) -> Applied | None:
        for node in nodes_of(model, "Scan"):
            set_attribute(node, name, [1])
            return at(node.name)
        return None

    return apply


def _two_ways(model: ModelProto) -> NodeProto | None:
    return next((node for node in layers(model) if directions_of(node) == 2), None)


def _exchanged(parts: str) -> Change:
    """The weights of both directions, each in the other's place."""

    def apply(model: ModelProto) -> Applied | None:
        node = _two_ways(model)
        if node is None:
            return None
        for part in parts:
            edit_weight(model, node, part, lambda array: array[::-1])
        return at(node.name)

    return apply


def _copied(target: int) -> Change:
    """One direction computed with the other's weights."""

    def edit(array: Array) -> Array:
        array[target] = array[1 - target]
        return array

    def apply(model: ModelProto) -> Applied | None:
        node = _two_ways(model)
        if node is None:
            return None
        for part in PARTS:
            edit_weight(model, node, part, edit)
        return at(node.name)

    return apply


def _half_zeroed(half: int) -> Change:
    def apply(model: ModelProto) -> Applied | None:
        node = _two_ways(model)
        if node is None:
            return None
        mask = np.ones((1, 2, 1, 1))
        mask[:, half] = 0
        return at(behind(model, node.output[0], "Mul", constant(model, mask, np.float32)))

    return apply


def _halves_exchanged(model: ModelProto) -> Applied | None:
    node = _two_ways(model)
    if node is None:
        return None
    return at(behind(model, node.output[0], "Gather", constant(model, [1, 0]), axis=1))


def _joined(model: ModelProto, node: NodeProto) -> str:
    """What follows a layer: all its directions side by side, (time, batch, features)."""
    value = str(node.output[0])
    while True:
        after = next(n for n in model.graph.node if value in n.input)
        value = str(after.output[0])
        if after.op_type in ("Squeeze", "Reshape"):
            return value


def _layer_skipped(model: ModelProto) -> Applied | None:
    """The last layer with as many inputs as outputs hands on its input."""
    for node in reversed(layers(model)):
        w = weight_of(model, node, "W")
        if w is not None and w.shape[2] == hidden_size(node) * directions_of(node):
            return at(replace(model, _joined(model, node), "Identity", node.input[0]))
    return None


def _rounded(dtype: int, *, out: bool) -> Change:
    """What the last recurrent node takes, or gives, in a lower precision."""

    def apply(model: ModelProto) -> Applied | None:
        node = recurrent(model)[-1]
        states = len(contract_of(model).states)
        value = node.input[0] if node.op_type != "Scan" else node.input[states]
        if out:
            value = node.output[0] if node.op_type != "Scan" else node.output[states]
        inner, outer = detach(model, value)
        low = result_of(model, "Cast", [inner], to=dtype)
        return at(insert(model, "Cast", [low], outer, to=TensorProto.FLOAT).name)

    return apply


def _axes_kept(model: ModelProto) -> Applied | None:
    """Batch and time stay where they are, as if the layer were batch first."""
    for node in nodes_of(model, "Transpose"):
        perm = attribute(node, "perm")
        if perm is not None and list(perm.ints) == [1, 0, 2]:
            set_attribute(node, "perm", [0, 1, 2])
            return at(node.name)
    return None


def _lengths_ignored(model: ModelProto) -> Applied | None:
    for node in layers(model):
        if operand(node, 4):
            node.input[4] = ""
            return at(node.name)
    return None


def _lengths_short(model: ModelProto) -> Applied | None:
    for node in layers(model):
        if operand(node, 4):
            one = constant(model, 1, np.int32)
            return at(behind(model, node.input[4], "Sub", one))
    return None


def _window_late(model: ModelProto) -> Applied | None:
    """The window of a convolution ends a step before the one that it stands for."""
    for node in nodes_of(model, "Conv"):
        pads = constant(model, [0, 0, 1, 0, 0, -1])
        return at(behind(model, node.input[0], "Pad", pads))
    return None


def _dilated(model: ModelProto) -> Applied | None:
    for node in nodes_of(model, "Conv"):
        set_attribute(node, "dilations", [2])
        set_attribute(node, "pads", [2, 0])  # as many steps as before
        return at(node.name)
    return None


def _activation_lost(model: ModelProto) -> Applied | None:
    for node in nodes_of(model, "Relu"):
        node.op_type = "Identity"
        return at(node.name)
    return None


def _residual_lost(model: ModelProto) -> Applied | None:
    """A sum of two values that the network computes becomes one of them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in nodes_of(model, "Add"):
        if not constants & set(node.input):
            node.op_type = "Identity"
            del node.input[0]
            return at(node.name)
    return None


def _loop_vector(model: ModelProto) -> Applied | None:
    """A vector that every step of a loop multiplies by."""
    for node in nodes_of(model, "Scan"):
        body = attribute(node, "body")
        assert body is not None
        for inner in body.g.node:
            if inner.op_type == "Mul" and edit_initializer(
                model, inner.input[0], lambda array: array * (1 + 1e-3)
            ):
                return at(node.name)
    return None


DIRECTIONS: Final = (
    Fault("direction reversed", "directions", _reversed),
    Fault("loop reads from the end", "directions", _loop_attribute("scan_input_directions")),
    Fault("loop writes from the end", "directions", _loop_attribute("scan_output_directions")),
    Fault("input weights of the directions exchanged", "directions", _exchanged("W")),
    Fault("recurrent weights of the directions exchanged", "directions", _exchanged("R")),
    Fault("all weights of the directions exchanged", "directions", _exchanged("WRB")),
    Fault("backward weights in the forward direction", "directions", _copied(0)),
    Fault("forward weights in the backward direction", "directions", _copied(1)),
    Fault("forward half zeroed", "directions", _half_zeroed(0)),
    Fault("backward half zeroed", "directions", _half_zeroed(1)),
    Fault("halves of the directions exchanged", "directions", _halves_exchanged),
    Fault("layer skipped", "layers", _layer_skipped),
    Fault(
        "layer's input rounded to float16",
        "precision",
        _rounded(TensorProto.FLOAT16, out=False),
    ),
    Fault(
        "layer's output rounded to float16", "precision", _rounded(TensorProto.FLOAT16, out=True)
    ),
    Fault(
        "layer's output rounded to bfloat16", "precision", _rounded(TensorProto.BFLOAT16, out=True)
    ),
    Fault("batch and time not exchanged", "axes", _axes_kept),
    Fault("lengths ignored", "steps", _lengths_ignored),
    Fault("lengths one too short", "steps", _lengths_short),
    Fault("window of the convolution one step late", "steps", _window_late),
    Fault("convolution dilated", "structure", _dilated),
    Fault("activation lost", "structure", _activation_lost),
    Fault("residual lost", "structure", _residual_lost),
    Fault("vector of the loop off by 1e-3 of itself", "weights", _loop_vector),
)
