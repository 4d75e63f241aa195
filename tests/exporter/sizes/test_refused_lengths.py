# SPDX-License-Identifier: Apache-2.0
"""Networks that take any length, of which a file takes some lengths alone, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import Spec, export
from tests.chunks import check_chunks

X = Spec("float32", "batch", "time", 4)


class Pyramid(nn.Module):
    """Layers that join pairs of steps, and leave out an odd one, as the encoder of LAS."""

    def __init__(self, layers: int, *, bidirectional: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        size = 2 if bidirectional else 4
        made = [
            nn.LSTM(8, size, batch_first=True, bidirectional=bidirectional) for _ in range(layers)
        ]
        self.layers = nn.ModuleList(made)

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            batch, time, features = x.shape
            if time % 2:
                x = x[:, :-1]
            x, _ = layer(x.contiguous().view(batch, time // 2, 2 * features))
        return x


class ShapeBehindTheCut(Pyramid):
    """The sizes are read after the odd step is left out."""

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            if x.shape[1] % 2:
                x = x[:, :-1]
            batch, time, features = x.shape
            x, _ = layer(x.contiguous().view(batch, time // 2, 2 * features))
        return x


class Dilated(nn.Module):
    """Layers over every second step, which pad an odd number of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.GRU(4, 4), nn.GRU(4, 4)])

    def forward(self, x: Tensor) -> Any:
        x = x.transpose(0, 1)
        for layer, rate in zip(self.layers, (1, 2), strict=True):
            time = x.shape[0]
            if time % rate:
                x = torch.cat([x, x.new_zeros(rate - time % rate, x.shape[1], x.shape[2])])
            y, _ = layer(torch.cat([x[start::rate] for start in range(rate)], 1))
            rows = y.shape[1] // rate
            parts = [y[:, start * rows : (start + 1) * rows] for start in range(rate)]
            x = torch.stack(parts).transpose(1, 0).contiguous().view(-1, rows, y.shape[2])[:time]
        return x.transpose(0, 1)


class LastBit(nn.Module):
    """Leaves out the last step of an odd number of them, which it asks for otherwise."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(8, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        if x.shape[1] & 1:
            x = x[:, :-1]
        return self.gru(torch.cat([x[:, ::2], x[:, 1::2]], 2))[0]


class Rest(LastBit):
    """Computes the rest by hand."""

    def forward(self, x: Tensor) -> Any:
        if x.shape[1] - x.shape[1] // 2 * 2:
            x = x[:, :-1]
        return self.gru(torch.cat([x[:, ::2], x[:, 1::2]], 2))[0]


class OddPairs(LastBit):
    """Does something else where the number of pairs of steps is odd."""

    def forward(self, x: Tensor) -> Any:
        y = self.gru(torch.cat([x, -x], 2))[0]
        return y + 1 if (x.shape[1] // 2) % 2 else y


class Pairs(nn.Module):
    """A network that PyTorch itself runs for even lengths alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(8, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.gru(x.reshape(x.shape[0], x.shape[1] // 2, 8))[0]


@pytest.mark.parametrize(
    ("network", "multiple", "streams"),
    [
        (Pyramid(1), 2, True),
        pytest.param(Pyramid(2), 4, True, marks=pytest.mark.thorough),
        pytest.param(Pyramid(2, bidirectional=True), 4, False, marks=pytest.mark.thorough),
        pytest.param(ShapeBehindTheCut(1), 2, True, marks=pytest.mark.thorough),
        pytest.param(Dilated(), 2, True, marks=pytest.mark.patterns),
        pytest.param(LastBit(), 2, True, marks=pytest.mark.thorough),
        pytest.param(Rest(), 2, True, marks=pytest.mark.patterns),
        pytest.param(OddPairs(), 4, True, marks=pytest.mark.thorough),
    ],
)
def test_a_branch_on_the_remainder_of_the_length(
    network: nn.Module, multiple: int, streams: bool, tmp_path: Path
) -> None:
    result = export(network, (X,), tmp_path / "m.onnx")
    assert result.contract.multiples == (("time", multiple),)
    assert result.contract.streaming.ok == streams
    takes = f"the file takes sequences of multiples of {multiple} steps alone"
    assert result.notes == (f"{takes}, while forward takes others, too",)
    if streams:
        check_chunks(tmp_path / "m.onnx")


def test_no_note_where_the_network_takes_no_others_either(tmp_path: Path) -> None:
    result = export(Pairs(), (X,), tmp_path / "m.onnx")
    assert result.contract.multiples == (("time", 2),)
    assert result.notes == ()
