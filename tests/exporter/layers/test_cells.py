"""`nn.LSTMCell` and its siblings: networks whose product is the single step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport.model_file.onnx_outline import read
from stateport.parity.engine_report import EngineReport
from stateport_exporter import Spec, export

X = Spec("float32", "batch", 5)
STATE = Spec("float32", "batch", 10)


class Step(nn.Module):
    """Two cells and a linear layer: a policy, say. The first cell's state is passed by hand."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.LSTMCell(5, 10)
            self.second = nn.GRUCell(10, 7)
            self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
        h, c = self.first(x, state)
        return self.head(self.second(h)), (h, c)


@pytest.mark.parametrize(
    ("cell", "operator"),
    [
        (nn.LSTMCell(5, 10), "LSTM"),
        (nn.LSTMCell(5, 10, bias=False), "LSTM"),
        (nn.GRUCell(5, 10), "GRU"),
        (nn.RNNCell(5, 10), "RNN"),
        (nn.RNNCell(5, 10, nonlinearity="relu", bias=False), "RNN"),
    ],
)
def test_a_cell_alone(
    cell: nn.RNNCellBase, operator: str, tmp_path: Path, judged: Callable[[Path], EngineReport]
) -> None:
    example = (X, (STATE, STATE)) if operator == "LSTM" else (X, STATE)
    result = export(cell, example, tmp_path / "m.onnx")
    names = [(s.input, s.output) for s in result.contract.states]
    assert names == [("h0", "hn"), ("c0", "cn")][: 2 if operator == "LSTM" else 1]
    assert [s.name for s in result.contract.outputs] == ["y"]  # a stream has something to give
    assert read(result.path).operators[operator] == 1
    report = judged(result.path)
    assert report.passed
    assert report.steps >= 2000


def test_a_network_that_steps_streams_step_by_step(
    tmp_path: Path, judged: Callable[[Path], EngineReport]
) -> None:
    net = Step().eval()
    result = export(net, (X, (STATE, STATE)), tmp_path / "m.onnx")
    assert [(s.input, s.output) for s in result.contract.states] == [
        ("first_h0", "first_hn"),
        ("first_c0", "first_cn"),
        ("second_h0", "second_hn"),
    ]
    assert result.lifted == ("second_h0",)
    assert judged(result.path).passed
    stream = stateport.load(result.path).stream()
    x = np.random.default_rng(0).standard_normal((4, 2, 5)).astype(np.float32)
    outputs = [stream(step) for step in x]
    assert outputs[0].shape == (2, 3)
    with torch.no_grad():  # by hand, with the second cell's state carried too
        h, c, g = torch.zeros(2, 10), torch.zeros(2, 10), torch.zeros(2, 7)
        for step, output in zip(x, outputs, strict=True):
            h, c = net.first(torch.from_numpy(step), (h, c))
            g = net.second(h, g)
            np.testing.assert_allclose(output, net.head(g), atol=1e-6)
