# SPDX-License-Identifier: Apache-2.0
"""Numbers that follow from the number of the step, as Python computes them in a loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport_exporter import ExportError, Spec, export
from stateport_exporter.loops import roll_loops
from stateport_exporter.loops.step_numbers import law_of
from stateport_exporter.network.example import Example

X = Spec("float32", "batch", "time", 4)

LAWS: dict[str, Callable[[int], float]] = {
    "t": lambda t: t,
    "3 - 2 t": lambda t: 3 - 2 * t,
    "t % 2": lambda t: t % 2,
    "t % 3": lambda t: t % 3,
    "0.1 t": lambda t: 0.1 * t,
    "1 / (t + 1)": lambda t: 1 / (t + 1),
    "t / (t + 1)": lambda t: t / (t + 1),
    "2 / (t + 3)": lambda t: 2 / (t + 3),
    "1 / sqrt(t + 1)": lambda t: 1 / math.sqrt(t + 1),
    "sqrt(t)": lambda t: math.sqrt(t),
    "0.9 ** t": lambda t: 0.9**t,
    "0.999 ** t": lambda t: 0.999**t,
    "1 - 0.9 ** (t + 1)": lambda t: 1 - 0.9 ** (t + 1),
    "exp(-t / 7)": lambda t: math.exp(-t / 7),
    "(-1.0) ** t": lambda t: (-1.0) ** t,
    "sin(0.3 t)": lambda t: math.sin(0.3 * t),
    "cos(t / 100)": lambda t: math.cos(t / 100),
}


@pytest.mark.parametrize("name", LAWS)
def test_the_law_goes_on(name: str) -> None:
    function = LAWS[name]
    law = law_of([function(step) for step in range(5)])
    assert law is not None
    for step in (5, 6, 100, 3000):
        assert law.at(step) == pytest.approx(function(step), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_a_longer_trace_has_the_same_law(name: str) -> None:
    function = LAWS[name]
    short = law_of([function(step) for step in range(5)])
    assert short == law_of([function(step) for step in range(6)])


def test_an_unknown_last_value_is_left_out() -> None:
    assert law_of([0, 1, 2, 3, None]) == law_of([0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    "values",
    [
        [0, 1, 4, 9, 16],
        [1, 2, 4, 8, 16],
        [0, 1, 2, 2, 2],
        [0.3, 0.1, 0.9, 0.2, 0.5],
        [1.0, 1.0, 1.0, 0.5, 0.25],
        [0, 1, 2],
        [math.inf, 1.0, 0.5, 1 / 3, 0.25],
        [0.0, math.nan, 0.5, 0.75, 1.0],
    ],
    ids=str,
)
def test_what_follows_no_law(values: list[float]) -> None:
    assert law_of(values) is None


class Loop(nn.Module):
    """A GRU's cell in a loop whose step sees the number of the step."""

    def __init__(self, step: Callable[[Any, Tensor, Tensor, int], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.positions = nn.GRUCell(4, 4), nn.Embedding(90, 4)
        self.register_buffer("periods", torch.tensor([1.0, 1.0, 2.0, 4.0]))
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = self.step(self, x[:, t], h, t)
            ys.append(h)
        return torch.stack(ys, 1)


def clockwork(net: Any, x: Tensor, h: Tensor, t: int) -> Tensor:
    """Koutník et al. 2014: each part of the state has a period of its own."""
    due = (t % net.periods == 0).float()
    y: Tensor = due * net.cell(x, h) + (1 - due) * h
    return y


def corrected(net: Any, x: Tensor, h: Tensor, t: int) -> Tensor:
    """A moving average without the bias of its start, as in Adam."""
    return (0.9 * h * (1 - 0.9**t) + 0.1 * x) / (1 - 0.9 ** (t + 1))


STEPS: dict[str, Callable[[Any, Tensor, Tensor, int], Tensor]] = {
    "a running mean": lambda _, x, h, t: h + (x - h) / (t + 1),
    "a running mean by weights": lambda _, x, h, t: (1 - 1 / (t + 1)) * h + 1 / (t + 1) * x,
    "a running mean by lerp": lambda _, x, h, t: torch.lerp(h, x, 1 / (t + 1)),
    "an input that fades": lambda net, x, h, t: net.cell(x * 0.9**t, h),
    "a wave": lambda net, x, h, t: net.cell(x + math.sin(0.1 * t), h),
    "the number itself": lambda net, x, h, t: net.cell(x + 0.01 * t, h),
    "a sum with the number": lambda net, x, h, t: net.cell(torch.sin(x + t), h),
    "the number in a tensor": lambda net, x, h, t: net.cell(torch.sin(x * torch.tensor(t)), h),
    "the number in a column": lambda net, x, h, t: net.cell(
        x + torch.cos(torch.full((x.shape[0], 1), float(t))), h
    ),
    "a comparison": lambda net, x, h, t: net.cell(torch.where(x * 10 > t, x, -x), h),
    "every second step": lambda net, x, h, t: net.cell(x, h) * (t % 2) + h * (1 - t % 2),
    "signs in turn": lambda net, x, h, t: net.cell(x * (-1.0) ** t, h),
    "a clockwork": clockwork,
    "a corrected average": corrected,
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_sees_its_number_is_rolled_up(name: str) -> None:
    net = Loop(STEPS[name]).eval()
    rolled = roll_loops(net, "forward", Example(net.forward, (X,)), ExportError("not captured"))
    x = torch.randn(2, 70, 4)
    with torch.no_grad():
        torch.testing.assert_close(rolled(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["a running mean", "a wave"])
def test_the_number_of_the_step_is_a_state(name: str, tmp_path: Path) -> None:
    """Chunks go on with the number of the next step, and give what the whole gives."""
    net = Loop(STEPS[name]).eval()
    result = export(net, (X,), tmp_path / "model.onnx")
    assert any("'count' is one value for all rows" in note for note in result.notes)
    model = stateport.load(result.path)
    with pytest.raises(stateport.StreamingError, match="keep a value for each row"):
        model.pool(2)
    x = torch.randn(2, 70, 4)
    expected = net(x).detach().numpy()

    chunks, stream = [], model.stream()
    for start, stop in ((0, 1), (1, 3), (3, 40), (40, 70)):
        chunks.append(stream(x[:, start:stop].numpy()))
    np.testing.assert_allclose(np.concatenate(chunks, 1), expected, rtol=1e-4, atol=1e-5)


def test_a_table_of_steps_ends(tmp_path: Path) -> None:
    """An embedding of the number of the step serves whole sequences, up to its last row."""

    def step(net: Any, x: Tensor, h: Tensor, t: int) -> Tensor:
        y: Tensor = net.cell(x + net.positions(torch.tensor(t)), h)
        return y

    net = Loop(step).eval()
    contract = export(net, (X,), tmp_path / "model.onnx").contract
    assert not contract.streaming.ok
    assert dict(contract.limits) == {"time": 90}


@pytest.mark.parametrize(
    "step",
    [
        lambda net, x, h, t: net.cell(x * min(1.0, t / 40), h),
        lambda net, x, h, t: net.cell(x * max(0.1, 0.95**t), h),
        lambda net, x, h, t: net.cell(x * min(1.0, t / 1000), h),
        lambda net, x, h, t: net.cell(x * t**3, h),
    ],
    ids=["a warm-up", "a floor", "a long warm-up", "a cube"],
)
def test_a_number_that_changes_its_law_is_refused(step: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"number of the step|does not do the same"):
        export(Loop(step).eval(), (X,), tmp_path / "model.onnx")


@pytest.mark.parametrize("scales", [[0.5**t for t in range(20)], [*range(20)]], ids=["0.5**t", "t"])
def test_numbers_in_a_list_end_with_it(scales: list[float], tmp_path: Path) -> None:
    """A stream would go on where forward has no number."""
    net = Loop(lambda net, x, h, t: net.cell(x * scales[t], h)).eval()
    with pytest.raises(ExportError, match="fails in a long sequence: list index out of range"):
        export(net, (X,), tmp_path / "model.onnx")
