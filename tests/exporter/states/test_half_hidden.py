# SPDX-License-Identifier: Apache-2.0
"""Layers of which one state is given and returned, and another is made inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport import State
from stateport_exporter import Spec, export
from tests.chunks import check_chunks

X = Spec("float32", "batch", "time", 5)
H0 = Spec("float32", "batch", 4)


class Network(nn.Module):
    """Layers, and what is done with them."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.lstm = nn.GRUCell(5, 4), nn.LSTM(5, 4, batch_first=True)
        self.start, self.from_x = nn.Parameter(torch.rand(4)), nn.Linear(5, 4)
        self.run = run

    def forward(self, x: Tensor, h0: Tensor) -> Any:
        return self.run(self, x, h0)


def counted(net: Network, x: Tensor, h: Tensor) -> Any:
    """A number of steps for each row, beside the state of a cell."""
    n, ys = x.new_zeros(x.shape[0], 1), []
    for t in range(x.shape[1]):
        h, n = net.cell(x[:, t], h), n + 1
        ys.append(h / n)
    return torch.stack(ys, 1), h


def averaged(net: Network, x: Tensor, h: Tensor) -> Any:
    """An average that starts from a parameter."""
    mean, ys = net.start.expand(x.shape[0], 4), []
    for t in range(x.shape[1]):
        h = net.cell(x[:, t], h)
        mean = 0.9 * mean + 0.1 * h
        ys.append(h - mean)
    return torch.stack(ys, 1), h


def half_an_lstm(net: Network, x: Tensor, h: Tensor) -> Any:
    """The cell state starts from zeros in every call."""
    y, (h_n, _) = net.lstm(x, (h[None], torch.zeros_like(h)[None]))
    return y, h_n[0]


def other_half(net: Network, x: Tensor, c: Tensor) -> Any:
    y, (_, c_n) = net.lstm(x, (torch.zeros_like(c)[None], c[None]))
    return y, c_n[0]


FORMS = {counted: "s2_0", averaged: "s2_0", half_an_lstm: "c0", other_half: "h0"}


@pytest.mark.parametrize("run", FORMS)
def test_the_hidden_half_is_lifted(run: Callable[..., Any], tmp_path: Path) -> None:
    result = export(Network(run).eval(), {"x": X, "h0": H0}, tmp_path / "m.onnx")

    assert result.contract.streaming.ok
    assert len(result.contract.states) == 2
    assert result.report is not None
    assert len(result.lifted) == 1
    check_chunks(result.path)


def test_both_halves_start_as_they_do_in_pytorch(tmp_path: Path) -> None:
    network = Network(averaged).eval()
    x, h0 = torch.rand(3, 7, 5), torch.rand(3, 4)

    result = export(network, {"x": X, "h0": H0}, tmp_path / "m.onnx")

    model = stateport.load(result.path)
    given, hidden = model.contract.states
    start = network.start.detach().expand(3, 4).numpy()
    state = State({given.input: h0.numpy(), hidden.input: start})
    outputs, _ = model.run({"x": x.numpy()}, state)
    expected, _ = network(x, h0)
    torch.testing.assert_close(
        torch.from_numpy(outputs[model.contract.outputs[0].name]), expected.detach()
    )


def test_a_half_made_from_the_sequence_is_no_state(tmp_path: Path) -> None:
    def decoder(net: Network, x: Tensor, h: Tensor) -> Any:
        h = h + net.from_x(x.mean(1))
        return counted(net, x, h)[0]

    result = export(Network(decoder).eval(), {"x": X, "h0": H0}, tmp_path / "m.onnx")

    assert result.contract.states == ()
    assert not result.contract.streaming.ok


def test_without_lifting_the_hidden_half_starts_again_in_every_call(tmp_path: Path) -> None:
    network = Network(half_an_lstm).eval()

    result = export(network, {"x": X, "h0": H0}, tmp_path / "m.onnx", lift=False)

    assert result.lifted == ()
    assert len(result.contract.states) == 1
    assert not result.contract.streaming.ok
