# SPDX-License-Identifier: Apache-2.0
"""`nn.LSTM` in ONNX: one `LSTM` operator per layer.

Sources: https://pytorch.org/docs/stable/generated/torch.nn.LSTM.html and
https://onnx.ai/onnx/operators/onnx__LSTM.html. PyTorch stacks the gates as input, forget, cell,
output (i, f, g, o); ONNX as input, output, forget, cell (i, o, f, c).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from ..graph.operators import Writer
from .stack import Array, Direction, direction_of, weights

_ORDER: Final = (0, 3, 1, 2)


def write_layer(
    writer: Writer,
    name: str,
    layer: list[Direction],
    x: ir.Value,
    lengths: ir.Value | None,
    states: Sequence[ir.Value],
) -> tuple[ir.Value, Sequence[ir.Value]]:
    """One layer with the states h and c; see `stack.WriteLayer`."""
    h0, c0 = states
    is_projected = layer[0].w_hr is not None
    if is_projected:
        x = writer.concat([x, *_first_steps(writer, x, lengths, h0, len(layer))], axis=2)

    w = _input_weights(layer)
    r = _recurrent_weights(layer)
    initial_h = None if is_projected else h0
    y, hn, cn = writer.ops(
        "LSTM",
        [x, *weights(writer, name, w, r, layer, _ORDER), lengths, initial_h, c0],
        3,
        hidden_size=layer[0].w_ih.shape[0] // 4,
        direction=direction_of(layer),
    )

    if is_projected:
        transposed = []
        for direction in layer:
            if direction.w_hr is not None:
                transposed.append(direction.w_hr.T)

        w_hr = np.stack(transposed)
        projection = writer.constant(w_hr, f"{name}.P")
        y = writer.op("MatMul", [y, projection])
        hn = writer.op("MatMul", [hn, projection])
    return y, [hn, cn]


# ONNX's LSTM has no projection. With h = P u, where u = o * tanh(c) is the unprojected hidden
# state, the recurrence W_hh h equals (W_hh P) u: an ordinary LSTM over u, whose outputs are
# projected afterwards, all steps at once. Only the first step differs: there is an h0, but no u
# that it is the projection of. So h0 comes in as further features of the input, with W_hh as their
# input weights. These features are h0 at the first step and zero at all others.


def _first_steps(
    writer: Writer, x: ir.Value, lengths: ir.Value | None, h0: ir.Value, directions: int
) -> list[ir.Value]:
    """Per direction (time, batch, projection): h0 at its first step, zero elsewhere."""
    time = writer.op("Slice", [writer.op("Shape", [x]), writer.ints([0]), writer.ints([1])])
    rest = writer.op("Sub", [time, writer.ints([1])])
    no_padding = writer.ints([0, 0])
    zero = writer.ints([0])
    # (before, after) of time, batch and features: the state at the first step, or at the last.
    forward = writer.op("Concat", [zero, no_padding, rest, no_padding], axis=0)
    backward = writer.op("Concat", [rest, no_padding, zero, no_padding], axis=0)

    parts = writer.split(h0, directions, 1)
    if directions == 2 and lengths is not None:
        last = _at_row_ends(writer, time, lengths, parts[1])
        return [writer.op("Pad", [parts[0], forward]), last]

    pads = (forward, backward)[:directions]
    return [writer.op("Pad", [part, pad]) for part, pad in zip(parts, pads, strict=True)]


def _at_row_ends(writer: Writer, time: ir.Value, lengths: ir.Value, state: ir.Value) -> ir.Value:
    """(time, batch, features): the state (1, batch, features) at each row's last step, else 0."""
    unit = writer.op("Squeeze", [writer.ints([1])])
    end = writer.op("Add", [writer.op("Squeeze", [time]), unit])
    steps = writer.op("Cast", [writer.op("Range", [unit, end, unit])], to=ir.DataType.INT32)
    steps = writer.op("Unsqueeze", [steps, writer.ints([1])])

    is_last = writer.op("Unsqueeze", [writer.op("Equal", [steps, lengths]), writer.ints([2])])
    zero = writer.op("CastLike", [writer.ints([0]), state])
    return writer.op("Where", [is_last, state, zero])


def _input_weights(layer: list[Direction]) -> list[Array]:
    """W_ih per direction. With a projection, also the weights of the features for the first step.

    There are such features for every direction; those of the other direction get zeros.
    """
    if layer[0].w_hr is None:
        return [direction.w_ih for direction in layer]

    no_weights = np.zeros_like(layer[0].w_hh)
    stacked = []
    for own in layer:
        of_h0 = [own.w_hh if direction is own else no_weights for direction in layer]
        stacked.append(np.concatenate([own.w_ih, *of_h0], axis=1))
    return stacked


def _recurrent_weights(layer: list[Direction]) -> list[Array]:
    """W_hh per direction. With a projection W_hh W_hr, multiplied in float64 and rounded once."""
    recurrent = []
    for direction in layer:
        weights = direction.w_hh
        if direction.w_hr is not None:
            product = weights.astype(np.float64) @ direction.w_hr.astype(np.float64)
            weights = product.astype(weights.dtype)
        recurrent.append(weights)
    return recurrent
