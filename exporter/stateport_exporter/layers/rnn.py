# SPDX-License-Identifier: Apache-2.0
"""`nn.RNN` in ONNX: one `RNN` operator per layer, with tanh or relu.

Sources: https://pytorch.org/docs/stable/generated/torch.nn.RNN.html and
https://onnx.ai/onnx/operators/onnx__RNN.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import onnx_ir as ir

from ..graph.operators import Writer
from .stack import Direction, WriteLayer, direction_of, weights


def _write_layer(
    writer: Writer,
    name: str,
    layer: list[Direction],
    x: ir.Value,
    lengths: ir.Value | None,
    states: Sequence[ir.Value],
    *,
    activation: str,
) -> tuple[ir.Value, Sequence[ir.Value]]:
    w = [direction.w_ih for direction in layer]
    r = [direction.w_hh for direction in layer]

    y, hn = writer.ops(
        "RNN",
        [x, *weights(writer, name, w, r, layer, (0,)), lengths, states[0]],
        2,
        hidden_size=layer[0].w_hh.shape[0],
        direction=direction_of(layer),
        activations=[activation] * len(layer),
    )
    return y, [hn]


#: One layer with the state h; see `stack.WriteLayer`.
write_tanh_layer: WriteLayer = partial(_write_layer, activation="Tanh")
write_relu_layer: WriteLayer = partial(_write_layer, activation="Relu")
