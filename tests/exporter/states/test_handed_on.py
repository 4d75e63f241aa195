# SPDX-License-Identifier: Apache-2.0
"""Layers that start from where another layer ended, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import Spec, export
from tests.chunks import check_chunks

X, STEP = Spec("float32", "batch", "time", 4), Spec("float32", "batch", 4)
STATE, CELL_STATE = Spec("float32", 1, "batch", 6), Spec("float32", "batch", 6)


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.decoder = nn.LSTM(4, 6, batch_first=True)
        self.cell = nn.LSTMCell(4, 6)


class Twice(Lstm):
    """One layer that is called twice, as for a burn-in."""

    def forward(self, x: Tensor, hidden: tuple[Tensor, Tensor]) -> Any:
        y, hidden = self.lstm(x, hidden)
        y, hidden = self.lstm(y[..., :4], hidden)
        return y, hidden


class Decoded(Lstm):
    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
        _, hidden = self.lstm(x, (h, c))
        y, (h, c) = self.decoder(x, hidden)
        return y, h, c


class BothReturned(Lstm):
    """The state of the first layer is the next one of its own argument."""

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
        _, (h, c) = self.lstm(x, (h, c))
        y, (other_h, other_c) = self.decoder(x, (h, c))
        return y, h, c, other_h, other_c


class CellTwice(Lstm):
    """A call that makes two steps."""

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
        h, c = self.cell(x, (h, c))
        h, c = self.cell(2 * x, (h, c))
        return 2 * h, h, c


@pytest.mark.parametrize(
    ("network", "example", "names"),
    [
        (Twice(), (X, (STATE, STATE)), [("lstm_h0", "lstm_hn"), ("lstm_c0", "lstm_cn")]),
        (Decoded(), (X, STATE, STATE), [("h", "h_n"), ("c", "c_n")]),
        (BothReturned(), (X, STATE, STATE), [("h", "h_n"), ("c", "c_n")]),
    ],
)
def test_the_last_layer_gives_the_next_state(
    network: nn.Module, example: Any, names: list[tuple[str, str]], tmp_path: Path
) -> None:
    contract = export(network.eval(), example, tmp_path / "model.onnx").contract
    assert [(state.input, state.output) for state in contract.states] == names

    reason = "decoder starts in each call from what lstm gives for that call"
    if isinstance(network, Twice):
        reason = "lstm runs more than once in each call, and goes on from its last run"
    assert (contract.streaming.ok, contract.streaming.reason) == (False, reason)


def test_a_step_may_call_a_cell_twice(tmp_path: Path) -> None:
    example = (STEP, CELL_STATE, CELL_STATE)
    result = export(CellTwice().eval(), example, tmp_path / "model.onnx")
    assert [(state.input, state.output) for state in result.contract.states] == [
        ("h", "h_n"),
        ("c", "c_n"),
    ]
    assert result.contract.streaming.ok
    check_chunks(tmp_path / "model.onnx")
