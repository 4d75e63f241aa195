"""`nn.LSTM` in ONNX: one `LSTM` operator per layer, both directions in one.

Sources: https://pytorch.org/docs/stable/generated/torch.nn.LSTM.html and
https://onnx.ai/onnx/operators/onnx__LSTM.html. PyTorch stacks the gates as input, forget, cell,
output (i, f, g, o); ONNX as input, output, forget, cell (i, o, f, c).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import ExportError
from .writer import Writer

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Direction:
    """The weights of one direction of one layer, as PyTorch has them; absent ones are None.

    Shapes: w_ih (4 * hidden, input), w_hh (4 * hidden, hidden or projection), b_ih and b_hh
    (4 * hidden,), w_hr (projection, hidden).
    """

    w_ih: Array
    w_hh: Array
    b_ih: Array | None
    b_hh: Array | None
    w_hr: Array | None


def write(node: ir.Node, path: str) -> None:
    """Replaces one captured `nn.LSTM` by ONNX operators with the same values at its outputs."""
    attribute = {name: a.as_int() for name, a in node.attributes.items()}
    directions = 2 if attribute["bidirectional"] else 1
    x, h0, c0, *weights = (value for value in node.inputs if value is not None)
    layers = _layers(
        weights, attribute["num_layers"], directions, bool(attribute["has_biases"]), path
    )
    writer = Writer(node, path)
    if attribute["batch_first"]:
        x = writer.op("Transpose", [x], perm=[1, 0, 2])
    h = writer.split(h0, len(layers), directions)
    c = writer.split(c0, len(layers), directions)
    hn, cn = [], []
    for index, layer in enumerate(layers):
        x, h_next, c_next = _layer(writer, f"l{index}", layer, x, h[index], c[index])
        hn.append(h_next)
        cn.append(c_next)
    if attribute["batch_first"]:
        x = writer.op("Transpose", [x], perm=[1, 0, 2])
    writer.replace([x, writer.concat(hn, axis=0), writer.concat(cn, axis=0)])


def _layers(
    weights: list[ir.Value], num_layers: int, directions: int, has_biases: bool, path: str
) -> list[list[Direction]]:
    """The flat list of weights, as PyTorch orders it, by layer and direction."""
    per_direction = len(weights) // (num_layers * directions)
    has_projection = per_direction == (5 if has_biases else 3)
    arrays = iter([_constant(weight, path) for weight in weights])

    def direction() -> Direction:
        w_ih, w_hh = next(arrays), next(arrays)
        b_ih, b_hh = (next(arrays), next(arrays)) if has_biases else (None, None)
        return Direction(w_ih, w_hh, b_ih, b_hh, next(arrays) if has_projection else None)

    return [[direction() for _ in range(directions)] for _ in range(num_layers)]


def _constant(weight: ir.Value, path: str) -> Array:
    tensor = ir.convenience.get_const_tensor(weight)
    if tensor is None:
        raise ExportError(
            f"The weights of the LSTM {path or 'itself'!r} are computed from the network's inputs; "
            "ONNX's LSTM needs constant ones."
        )
    array: Array = tensor.numpy()
    return array


def _layer(
    writer: Writer, name: str, layer: list[Direction], x: ir.Value, h0: ir.Value, c0: ir.Value
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """One layer: x (time, batch, input), h0 and c0 (directions, batch, ...) -> y, hn, cn."""
    hidden = layer[0].w_ih.shape[0] // 4
    projected = layer[0].w_hr is not None
    if projected:
        x = writer.concat([x, *_first_steps(writer, x, h0, len(layer))], axis=2)
    w, r = _input_weights(layer), _recurrent_weights(layer)
    operands = [
        x,
        writer.constant(np.stack([reorder(m) for m in w]), f"{name}.W"),
        writer.constant(np.stack([reorder(m) for m in r]), f"{name}.R"),
        writer.constant(_biases(layer), f"{name}.B") if layer[0].b_ih is not None else None,
        None,
        None if projected else h0,
        c0,
    ]
    direction = "bidirectional" if len(layer) == 2 else "forward"
    y, hn, cn = writer.ops("LSTM", operands, 3, hidden_size=hidden, direction=direction)
    if projected:
        w_hr = np.stack([d.w_hr.T for d in layer if d.w_hr is not None])
        projection = writer.constant(w_hr, f"{name}.P")
        y, hn = writer.op("MatMul", [y, projection]), writer.op("MatMul", [hn, projection])
    # y is (time, directions, batch, features) in ONNX, (time, batch, directions * features) here.
    if len(layer) == 1:
        return writer.op("Squeeze", [y, writer.ints([1])]), hn, cn
    y = writer.op("Transpose", [y], perm=[0, 2, 1, 3])
    return writer.op("Reshape", [y, writer.ints([0, 0, -1])]), hn, cn


def reorder(stacked: Array) -> Array:
    """Gates stacked on axis 0, from PyTorch's order i, f, g, o to ONNX's i, o, f, c."""
    i, f, g, o = np.split(stacked, 4)
    return np.concatenate([i, o, f, g])


def _biases(layer: list[Direction]) -> Array:
    """(directions, 8 * hidden): the biases of the input, then those of the recurrence."""
    rows = [
        np.concatenate([reorder(d.b_ih), reorder(d.b_hh)])
        for d in layer
        if d.b_ih is not None and d.b_hh is not None
    ]
    return np.stack(rows)


# ONNX's LSTM has no projection. With h = P u, where u = o * tanh(c) is the unprojected hidden
# state, the recurrence W_hh h equals (W_hh P) u: an ordinary LSTM over u, whose outputs are
# projected afterwards, all steps at once. Only the first step differs, since there is no u for a
# given h0: W_hh h0 comes in by the side door, as further features of the input that are h0 at the
# first step and zero at all others, with W_hh as their input weights.


def _first_steps(writer: Writer, x: ir.Value, h0: ir.Value, directions: int) -> list[ir.Value]:
    """Per direction (time, batch, projection): h0 at its first step, zero elsewhere."""
    time = writer.op("Slice", [writer.op("Shape", [x]), writer.ints([0]), writer.ints([1])])
    rest = writer.op("Sub", [time, writer.ints([1])])
    none, one = writer.ints([0, 0]), writer.ints([0])
    forward = writer.op("Concat", [one, none, rest, none], axis=0)
    backward = writer.op("Concat", [rest, none, one, none], axis=0)
    parts = writer.split(h0, directions, 1)
    pads = (forward, backward)[:directions]
    return [writer.op("Pad", [part, pad]) for part, pad in zip(parts, pads, strict=True)]


def _input_weights(layer: list[Direction]) -> list[Array]:
    """W_ih, and for a projection W_hh for its own direction's first step, zeros for the other's."""
    if layer[0].w_hr is None:
        return [d.w_ih for d in layer]
    none = np.zeros_like(layer[0].w_hh)
    return [
        np.concatenate([d.w_ih, *(d.w_hh if other is d else none for other in layer)], axis=1)
        for d in layer
    ]


def _recurrent_weights(layer: list[Direction]) -> list[Array]:
    """W_hh, or W_hh W_hr for a projection, multiplied in float64 and rounded once."""
    return [
        d.w_hh
        if d.w_hr is None
        else (d.w_hh.astype(np.float64) @ d.w_hr.astype(np.float64)).astype(d.w_hh.dtype)
        for d in layer
    ]
