# SPDX-License-Identifier: Apache-2.0
"""`nn.GRU` in ONNX: one `GRU` operator per layer.

Sources: https://pytorch.org/docs/stable/generated/torch.nn.GRU.html and
https://onnx.ai/onnx/operators/onnx__GRU.html. PyTorch stacks the gates as reset, update, new
(r, z, n); ONNX as update, reset, hidden (z, r, h). PyTorch resets after the recurrent product and
its bias, which is ONNX's `linear_before_reset=1`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from ..graph.operators import Writer
from .stack import Direction, direction_of, weights

_ORDER: Final = (1, 0, 2)


def write_layer(
    writer: Writer,
    name: str,
    layer: list[Direction],
    x: ir.Value,
    lengths: ir.Value | None,
    states: Sequence[ir.Value],
) -> tuple[ir.Value, Sequence[ir.Value]]:
    """One layer with the state h; see `stack.WriteLayer`."""
    w = [direction.w_ih for direction in layer]
    r = [direction.w_hh for direction in layer]

    y, hn = writer.ops(
        "GRU",
        [x, *weights(writer, name, w, r, layer, _ORDER), lengths, states[0]],
        2,
        hidden_size=layer[0].w_hh.shape[1],
        direction=direction_of(layer),
        linear_before_reset=1,
    )
    return y, [hn]
