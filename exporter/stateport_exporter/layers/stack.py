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
    """Replaces one captured call by ONNX operators with the same values at its outputs."""
    attribute = {name: a.as_int() for name, a in node.attributes.items()}
    directions = 2 if attribute["bidirectional"] else 1
    x, *operands = (value for value in node.inputs if value is not None)
    lengths = operands.pop() if attribute["has_lengths"] else None
    firsts, weights = operands[:states], operands[states:]
    layers = _layers(
        weights, attribute["num_layers"], directions, bool(attribute["has_biases"]), path
    )
    writer = Writer(node, path)
    if lengths is not None:
        lengths = writer.op("Cast", [lengths], to=ir.DataType.INT32)
    if attribute["batch_first"]:
        x = writer.op("Transpose", [x], perm=[1, 0, 2])
    first = [writer.split(value, len(layers), directions) for value in firsts]
    lasts: list[Sequence[ir.Value]] = []
    for index, layer in enumerate(layers):
        parts = [split[index] for split in first]
        y, last = write_layer(writer, f"l{index}", layer, x, lengths, parts)
        x = _join_directions(writer, y, directions)
        lasts.append(last)
    if attribute["batch_first"]:
        x = writer.op("Transpose", [x], perm=[1, 0, 2])
    writer.replace([x, *(writer.concat(parts, axis=0) for parts in zip(*lasts, strict=True))])


def weights(
    writer: Writer,
    name: str,
    w: Sequence[Array],
    r: Sequence[Array],
    layer: list[Direction],
    order: Sequence[int],
) -> list[ir.Value | None]:
    """The operands W, R and B of ONNX's operators, with the gates in ONNX's order."""
    return [
        writer.constant(np.stack([reorder(m, order) for m in w]), f"{name}.W"),
        writer.constant(np.stack([reorder(m, order) for m in r]), f"{name}.R"),
        _biases(writer, name, layer, order),
    ]


def direction_of(layer: list[Direction]) -> str:
    """The attribute `direction` of ONNX's operators."""
    return "bidirectional" if len(layer) == 2 else "forward"


def reorder(stacked: Array, order: Sequence[int]) -> Array:
    """Gates stacked on axis 0, taken in another order."""
    gates = np.split(stacked, len(order))
    return np.concatenate([gates[index] for index in order])


def _biases(
    writer: Writer, name: str, layer: list[Direction], order: Sequence[int]
) -> ir.Value | None:
    """(directions, 2 * g * hidden): the biases of the input, then those of the recurrence."""
    rows = [
        np.concatenate([reorder(d.b_ih, order), reorder(d.b_hh, order)])
        for d in layer
        if d.b_ih is not None and d.b_hh is not None
    ]
    return writer.constant(np.stack(rows), f"{name}.B") if rows else None


def _join_directions(writer: Writer, y: ir.Value, directions: int) -> ir.Value:
    """(time, directions, batch, features) -> (time, batch, directions * features)."""
    if directions == 1:
        return writer.op("Squeeze", [y, writer.ints([1])])
    y = writer.op("Transpose", [y], perm=[0, 2, 1, 3])
    return writer.op("Reshape", [y, writer.ints([0, 0, -1])])


def _layers(
    values: Sequence[ir.Value], num_layers: int, directions: int, has_biases: bool, path: str
) -> list[list[Direction]]:
    """The flat list of weights, as PyTorch orders it, by layer and direction."""
    per_direction = len(values) // (num_layers * directions)
    has_projection = per_direction == (5 if has_biases else 3)
    arrays = iter([_constant(value, path) for value in values])

    def direction() -> Direction:
        w_ih, w_hh = next(arrays), next(arrays)
        b_ih, b_hh = (next(arrays), next(arrays)) if has_biases else (None, None)
        return Direction(w_ih, w_hh, b_ih, b_hh, next(arrays) if has_projection else None)

    return [[direction() for _ in range(directions)] for _ in range(num_layers)]


def _constant(weight: ir.Value, path: str) -> Array:
    tensor = ir.convenience.get_const_tensor(weight)
    if tensor is None:
        raise ExportError(
            f"The weights of the recurrent layer {path!r} are computed from the network's inputs; "
            "ONNX's recurrent operators need constant ones. Make them parameters."
        )
    array: Array = tensor.numpy()
    return array
