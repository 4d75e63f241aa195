# SPDX-License-Identifier: Apache-2.0
"""What all recurrent layers share: stacked layers, two directions, batch first, several states.

PyTorch runs `num_layers` layers in one call, with the states of all of them in one tensor
(num_layers * num_directions, batch, hidden). ONNX has one operator per layer, which takes time
first and both directions at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from stateport.picking import present

from ..errors import ExportError
from ..graph.operators import Writer

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Direction:
    """The weights of one direction of one layer, as PyTorch has them; absent ones are None.

    With g gates, the shapes are: w_ih (g * hidden, input), w_hh (g * hidden, hidden or projection),
    b_ih and b_hh (g * hidden,), w_hr (projection, hidden).
    """

    w_ih: Array
    w_hh: Array
    b_ih: Array | None
    b_hh: Array | None
    w_hr: Array | None


#: Writes one layer: (writer, name, its directions, x, lengths, first states) -> y, last states. x
#: is (time, batch, input), lengths int32 (batch,) or None, a state (directions, batch, hidden), y
#: (time, directions, batch, hidden).
WriteLayer = Callable[
    [Writer, str, list[Direction], ir.Value, ir.Value | None, Sequence[ir.Value]],
    tuple[ir.Value, Sequence[ir.Value]],
]


def write(node: ir.Node, path: str, states: int, write_layer: WriteLayer) -> None:
    """Replaces one captured call by ONNX operators with the same values at its outputs.

    Args:
        node: the captured call.
        path: the layer's path in the author's module.
        states: the number of the layer's states.
        write_layer: writes one layer of this kind.

    Raises:
        ExportError: weights are not constant.
    """
    attribute = {name: a.as_int() for name, a in node.attributes.items()}
    directions = 2 if attribute["bidirectional"] else 1
    x, *operands = present(node.inputs)
    lengths = operands.pop() if attribute["has_lengths"] else None
    initial_states = operands[:states]
    weights = operands[states:]
    has_biases = bool(attribute["has_biases"])
    layers = _layers(weights, attribute["num_layers"], directions, has_biases, path)

    writer = Writer(node, path)
    if lengths is not None:
        lengths = writer.op("Cast", [lengths], to=ir.DataType.INT32)
    if attribute["batch_first"]:
        x = writer.op("Transpose", [x], perm=[1, 0, 2])

    x, last_states = _write_layers(writer, layers, x, lengths, initial_states, write_layer)

    if attribute["batch_first"]:
        x = writer.op("Transpose", [x], perm=[1, 0, 2])
    writer.replace([x, *(writer.concat(parts, axis=0) for parts in last_states)])


def _write_layers(
    writer: Writer,
    layers: list[list[Direction]],
    x: ir.Value,
    lengths: ir.Value | None,
    initial_states: Sequence[ir.Value],
    write_layer: WriteLayer,
) -> tuple[ir.Value, list[tuple[ir.Value, ...]]]:
    """Writes one layer after the other: the last one's output, and each state's last values."""
    directions = len(layers[0])
    split_states = [writer.split(value, len(layers), directions) for value in initial_states]

    last_states: list[Sequence[ir.Value]] = []
    for index, layer in enumerate(layers):
        initial = [parts[index] for parts in split_states]
        y, last = write_layer(writer, f"l{index}", layer, x, lengths, initial)
        x = _join_directions(writer, y, directions)
        last_states.append(last)
    return x, list(zip(*last_states, strict=True))


def weights(
    writer: Writer,
    name: str,
    w: Sequence[Array],
    r: Sequence[Array],
    layer: list[Direction],
    order: Sequence[int],
) -> list[ir.Value | None]:
    """The operands W, R and B of ONNX's operators, with the gates in ONNX's order."""
    stacked_w = np.stack([reorder(matrix, order) for matrix in w])
    stacked_r = np.stack([reorder(matrix, order) for matrix in r])
    return [
        writer.constant(stacked_w, f"{name}.W"),
        writer.constant(stacked_r, f"{name}.R"),
        _biases(writer, name, layer, order),
    ]


def direction_of(layer: list[Direction]) -> str:
    """The attribute `direction` of ONNX's operators."""
    return "bidirectional" if len(layer) == 2 else "forward"


def reorder(stacked: Array, order: Sequence[int]) -> Array:
    """Gates stacked on axis 0, in another order: `order` has the old index of each new gate."""
    gates = np.split(stacked, len(order))
    return np.concatenate([gates[index] for index in order])


def _biases(
    writer: Writer, name: str, layer: list[Direction], order: Sequence[int]
) -> ir.Value | None:
    """(directions, 2 * g * hidden): the biases of the input, then those of the recurrence."""
    rows = []
    for direction in layer:
        if direction.b_ih is not None and direction.b_hh is not None:
            rows.append(
                np.concatenate([reorder(direction.b_ih, order), reorder(direction.b_hh, order)])
            )

    if rows:
        return writer.constant(np.stack(rows), f"{name}.B")
    return None


def _join_directions(writer: Writer, y: ir.Value, directions: int) -> ir.Value:
    """(time, directions, batch, features) -> (time, batch, directions * features)."""
    if directions == 1:
        return writer.op("Squeeze", [y, writer.ints([1])])

    y = writer.op("Transpose", [y], perm=[0, 2, 1, 3])
    return writer.op("Reshape", [y, writer.ints([0, 0, -1])])


def _layers(
    values: Sequence[ir.Value], num_layers: int, directions: int, has_biases: bool, path: str
) -> list[list[Direction]]:
    """The flat list of weights, in PyTorch's order, by layer and direction."""
    per_direction = len(values) // (num_layers * directions)
    has_projection = per_direction == (5 if has_biases else 3)
    arrays = iter([_constant_array(value, path) for value in values])

    def next_direction() -> Direction:
        w_ih, w_hh = next(arrays), next(arrays)
        b_ih, b_hh = (next(arrays), next(arrays)) if has_biases else (None, None)
        w_hr = next(arrays) if has_projection else None
        return Direction(w_ih, w_hh, b_ih, b_hh, w_hr)

    return [[next_direction() for _ in range(directions)] for _ in range(num_layers)]


def _constant_array(weight: ir.Value, path: str) -> Array:
    tensor = ir.convenience.get_const_tensor(weight)
    if tensor is None:
        raise ExportError(
            f"The weights of the recurrent layer {path!r} are computed from the network's inputs; "
            "ONNX's recurrent operators need constant ones. Make them parameters."
        )

    array: Array = tensor.numpy()
    return array
