"""States that cannot be any numbers start from numbers that the network reaches."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import Spec, export

X = Spec("float32", "batch", "time", 3)
ROW = Spec("float32", "batch", 3)


class Normalized(nn.Module):
    """A running mean and variance, and a layer on what they normalise."""

    def __init__(self, layer: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True) if layer else None

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0])
        steps = []
        for step in range(x.size(1)):
            mean = 0.9 * mean + 0.1 * x[:, step]
            variance = 0.9 * variance + 0.1 * (x[:, step] - mean) ** 2
            steps.append((x[:, step] - mean) / torch.sqrt(variance + 1e-5))
        y = torch.stack(steps, dim=1)
        return y if self.lstm is None else self.lstm(y)[0]


class Given(nn.Module):
    """One step with its variance as an argument."""

    def forward(self, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        variance = 0.9 * variance + 0.1 * x**2
        return x / torch.sqrt(variance + 1e-5), variance


class Logarithm(nn.Module):
    """A level that is never below zero, seen as decibels."""

    def forward(self, x: Tensor) -> Tensor:
        level = torch.full_like(x[:, 0], 0.1)
        steps = []
        for step in range(x.size(1)):
            level = torch.maximum(0.8 * level, x[:, step].abs())
            steps.append(20 * torch.log10(level))
        return torch.stack(steps, dim=1)


@pytest.mark.parametrize(
    ("network", "example"),
    [
        (Normalized(layer=False), X),
        pytest.param(Normalized(layer=True), X, marks=pytest.mark.thorough),
        (Given(), (ROW, ROW)),
        pytest.param(Logarithm(), X, marks=pytest.mark.thorough),
    ],
    ids=["variance", "before a layer", "given", "logarithm"],
)
def test_a_state_that_is_not_negative(tmp_path: Path, network: nn.Module, example: object) -> None:
    result = export(network, example, tmp_path / "m.onnx")  # type: ignore[arg-type]
    assert result.report is not None
    assert result.report.passed
    assert result.contract.streaming.ok, result.contract.streaming.reason
    assert result.contract.states
