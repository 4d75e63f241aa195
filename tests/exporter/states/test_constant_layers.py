# SPDX-License-Identifier: Apache-2.0
"""Layers that run over parameters alone: they compute the same in every call, and have no state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport import InputError
from stateport_exporter import ExportError, Spec, export
from tests.chunks import check_chunks

X = Spec("float32", "batch", "time", 4)


class Primed(nn.Module):
    """A network with learned tokens, over which a layer runs before the sequence begins."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.decoder = nn.LSTM(4, 5, batch_first=True)
        self.cell = nn.GRUCell(4, 5)
        self.tokens = nn.Parameter(torch.randn(1, 3, 4))

    def forward(self, x: Tensor) -> Any:
        _, hidden = self.gru(self.tokens.expand(x.shape[0], -1, -1))
        return self.gru(x, hidden)[0]


class PrimedDecoder(Primed):
    def forward(self, x: Tensor) -> Any:
        _, hidden = self.lstm(self.tokens.expand(x.shape[0], -1, -1))
        return self.decoder(x, hidden)


class PrimedCell(Primed):
    def forward(self, x: Tensor) -> Any:
        h, ys = None, []
        for k in range(3):
            h = self.cell(self.tokens[0, k].expand(x.shape[0], -1), h)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)


class Summary(Primed):
    """What a layer makes of the tokens is added to each step."""

    def forward(self, x: Tensor) -> Any:
        summary = self.gru(self.tokens)[0].mean(1, keepdim=True)
        return self.lstm(x)[0] + summary


class FromTheBatch(Primed):
    """The first state says how many rows the batch has."""

    def forward(self, x: Tensor) -> Any:
        return self.gru(x, torch.full((1, x.shape[0], 5), 0.1 * x.shape[0]))[0]


class ByChance(Primed):
    def forward(self, x: Tensor) -> Any:
        return self.gru(x, torch.rand(1, 1, 5).expand(1, x.shape[0], 5).contiguous())[0]


@pytest.mark.parametrize(
    ("network", "states"),
    [
        (Primed(), ["h0"]),
        (PrimedDecoder(), ["h0", "c0"]),
        (PrimedCell(), ["h0"]),
        (Summary(), ["h0", "c0"]),
    ],
)
def test_the_layer_over_the_sequence_has_the_state(
    network: nn.Module, states: list[str], tmp_path: Path
) -> None:
    result = export(network, (X,), tmp_path / "m.onnx")
    assert [state.input for state in result.contract.states] == states
    assert result.contract.streaming.ok
    check_chunks(tmp_path / "m.onnx")


@pytest.mark.parametrize("network", [FromTheBatch(), ByChance()])
def test_a_first_state_of_another_kind_is_refused(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="with the size of the input, or by chance"):
        export(network, (X,), tmp_path / "m.onnx")


class FromASize(Primed):
    """The first state depends on a size, by a condition that usual sizes do not show."""

    def __init__(self, fill: Callable[[Tensor], float]) -> None:
        super().__init__()
        self.fill = fill

    def forward(self, x: Tensor) -> Any:
        return self.gru(x, torch.full((1, x.shape[0], 5), self.fill(x)))[0]


@pytest.mark.parametrize(
    "fill",
    [
        lambda x: 1.0 if x.shape[0] > 1 else 0.0,
        lambda x: 1.0 if x.shape[0] > 4 else 0.0,
        lambda x: 1.0 if x.shape[1] > 20 else 0.0,
        lambda x: 1.0 if x.shape[1] > 500 else 0.0,
        lambda x: float(x.shape[1] // 8),
    ],
)
def test_a_first_state_that_depends_on_a_size_is_refused(
    fill: Callable[[Tensor], float], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="with the size of the input, or by chance"):
        export(FromASize(fill), (X,), tmp_path / "m.onnx")


class FromRows(Primed):
    """A first state of at most 64 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.ones(1, 64, 5))

    def forward(self, x: Tensor) -> Any:
        first: Any = self.first
        return self.gru(x, first[:, : x.shape[0]].contiguous())[0]


def test_a_pool_has_as_many_streams_as_the_file_takes_rows(tmp_path: Path) -> None:
    result = export(FromRows(), (X,), tmp_path / "m.onnx")
    assert dict(result.contract.limits) == {"batch": 64}
    model = stateport.load(tmp_path / "m.onnx")
    pool = model.pool(64)
    y = pool.step(pool.open(3), np.zeros((3, 2, 4), np.float32))
    assert y.shape == (3, 2, 5)
    with pytest.raises(InputError, match="at most 64 rows in one call, so a pool has at most 64"):
        model.pool(65)
