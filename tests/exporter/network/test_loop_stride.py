# SPDX-License-Identifier: Apache-2.0
"""How many steps each pass of a loop takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import Spec
from stateport_exporter.network.example import Example
from stateport_exporter.network.explicit import Explicit
from stateport_exporter.network.loop_stride import loop_stride

X = Spec("float32", "batch", "time", 4)


class Net(nn.Module):
    def __init__(self, steps: Callable[..., Any]) -> None:
        super().__init__()
        self.cell, self.other = nn.GRUCell(4, 4), nn.GRUCell(4, 4)
        self.rows = nn.Parameter(torch.randn(3, 4))
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        return torch.stack([h, *self.steps(self, x, h)], 1)


def each(net: Net, x: Tensor, h: Tensor) -> Any:
    for t in range(x.shape[1]):
        h = net.cell(x[:, t], h)
        yield h


def every_third(net: Net, x: Tensor, h: Tensor) -> Any:
    for t in range(0, x.shape[1], 3):
        h = net.cell(x[:, t], h)
        yield h


def in_chunks(net: Net, x: Tensor, h: Tensor) -> Any:
    for chunk in torch.split(x, 5, 1):
        h = net.cell(chunk.sum(1), h)
        yield h


def in_turn(net: Net, x: Tensor, h: Tensor) -> Any:
    for t in range(x.shape[1]):
        h = (net.cell, net.other)[t % 2](x[:, t], h)
        yield h


def rows_in_turn(net: Net, x: Tensor, h: Tensor) -> Any:
    for t in range(x.shape[1]):
        h = net.cell(x[:, t] * net.rows[t % 3], h)
        yield h


def twice_as_slow(net: Net, x: Tensor, h: Tensor) -> Any:
    for t in range(x.shape[1]):
        if t % 4 == 3:
            h = net.other(h, h)
        h = net.cell(x[:, t], h)
        yield h


def ring_of_three(net: Net, x: Tensor, h: Tensor) -> Any:
    ring = x.new_zeros(x.shape[0], 3, 4)
    for t in range(x.shape[1]):
        ring[:, t % 3] = x[:, t]
        h = net.cell(ring.mean(1), h)
        yield h


def no_loop(net: Net, x: Tensor, h: Tensor) -> Any:
    yield net.cell(x.mean(1), h)


def ever_more(net: Net, x: Tensor, h: Tensor) -> Any:
    for t in range(x.shape[1]):
        for step in range(t + 1):
            h = net.cell(x[:, step], h)
        yield h


def whole_pieces_alone(net: Net, x: Tensor, h: Tensor) -> Any:
    for piece in torch.split(x, 6, 1):
        h = net.cell(piece.reshape(-1, 6, 4).sum(1), h)
        yield h


def sixty_at_least(net: Net, x: Tensor, h: Tensor) -> Any:
    assert x.shape[1] >= 60
    yield from every_third(net, x, h)


@pytest.mark.parametrize(
    ("steps", "stride"),
    [
        (each, None),
        (every_third, 3),
        (in_chunks, 5),
        (in_turn, 2),
        (rows_in_turn, 3),
        (twice_as_slow, 4),
        (ring_of_three, 3),
        (no_loop, None),
        (ever_more, None),
        (sixty_at_least, None),
        (whole_pieces_alone, 6),
    ],
)
def test_the_stride_is_that_of_the_calls(steps: Callable[..., Any], stride: int | None) -> None:
    net = Net(steps)
    assert loop_stride(Explicit(net).eval(), Example(net.forward, (X,))) == stride


def test_without_time_there_is_none() -> None:
    net = nn.Linear(4, 4)
    example = Example(net.forward, (Spec("float32", "batch", 4),))
    assert loop_stride(Explicit(net).eval(), example) is None
