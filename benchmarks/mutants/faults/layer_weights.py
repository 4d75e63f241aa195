"""The weights of recurrent layers and loops, in one layout.

A loop's weights are those of the linear layer that makes all its gates: `Gemm` of the step's input
beside the hidden state, then `Split`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from onnx import ModelProto, NodeProto
from onnx.numpy_helper import to_array

from .fault import Applied, Change, at
from .graph import (
    Array,
    Edit,
    attribute,
    body_of,
    edit_initializer,
    initializer,
    operand,
    recurrent,
)

#: The parts of a layer's weights: of the input, of the recurrence, and the biases.
PARTS: Final = ("W", "R", "B")

_POSITIONS: Final = {"W": 1, "R": 2, "B": 3}
_GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}


def gates_of(node: NodeProto) -> int:
    """How many gates a layer or loop has."""
    if node.op_type != "Scan":
        return _GATES[node.op_type]
    split = next(inner for inner in body_of(node).node if inner.op_type == "Split")
    return len(split.output)


def weight_of(model: ModelProto, node: NodeProto, part: str) -> Array | None:
    """A part of a layer's weights, as `edit_weight` hands it out."""
    tensor = initializer(model, operand(node, _POSITIONS[part]))
    return None if tensor is None else to_array(tensor)


def edit_weight(model: ModelProto, node: NodeProto, part: str, edit: Edit) -> bool:
    """Edits W (directions, gates * hidden, inputs), R or B (directions, halves * gates * hidden).

    False where there is no such part, or the edit changes nothing.
    """
    if node.op_type != "Scan":
        return edit_initializer(model, operand(node, _POSITIONS[part]), edit)
    gemm = next(inner for inner in body_of(node).node if inner.op_type == "Gemm")
    if part == "B":
        return edit_initializer(model, gemm.input[2], lambda b: edit(b[None])[0])

    def edit_rows(weight: Array) -> Array:
        inputs = len(weight) - weight.shape[1] // gates_of(node)
        rows = slice(inputs) if part == "W" else slice(inputs, None)
        weight[rows] = edit(weight[rows].T[None].copy())[0].T
        return weight

    return edit_initializer(model, gemm.input[1], edit_rows)


def edit_gates(model: ModelProto, node: NodeProto, part: str, edit: Edit) -> bool:
    """Edits a part as (directions, halves, gates, hidden, ...), with two halves in B alone."""
    gates = gates_of(node)
    halves = 2 if part == "B" and node.op_type != "Scan" else 1

    def edit_blocks(array: Array) -> Array:
        return edit(array.reshape(len(array), halves, gates, -1, *array.shape[2:])).reshape(
            array.shape
        )

    return edit_weight(model, node, part, edit_blocks)


def in_first_layer(parts: str, edit: Edit, edit_part: Callable[..., bool] = edit_weight) -> Change:
    """Edits these parts of the first recurrent layer, "WRB" for all."""

    def apply(model: ModelProto) -> Applied | None:
        node = recurrent(model)[0]
        done = [edit_part(model, node, part, edit) for part in parts]
        return at(node.name) if any(done) else None

    return apply


def hidden_size(node: NodeProto) -> int:
    """The hidden units of a layer, in one direction."""
    found = attribute(node, "hidden_size")
    assert found is not None
    return int(found.i)


def directions_of(node: NodeProto) -> int:
    """One or two."""
    found = attribute(node, "direction")
    return 2 if found is not None and found.s == b"bidirectional" else 1


def square_blocks(array: Array) -> Array:
    """(directions, gates * hidden, hidden) as (directions, gates, hidden, hidden)."""
    return array.reshape(len(array), -1, array.shape[-1], array.shape[-1])


def largest(array: Array) -> tuple[np.intp, ...]:
    """The place of the number that is farthest from zero."""
    return np.unravel_index(np.abs(array).argmax(), array.shape)
