"""What some versions of `torch.export` get wrong, on whichever version is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport.parity.engine_report import EngineReport
from stateport_exporter import export
from stateport_exporter.capture.torch_export import torch_export, with_named_axes


class StepByStep(nn.Module):
    """An `nn.LSTM` that is called for every step, with the state of the step before."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 4, num_layers=2, batch_first=True)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        steps = []
        for step in range(x.size(1)):
            y, (h, c) = self.lstm(x[:, step : step + 1], (h, c))
            steps.append(y)
        return torch.cat(steps, 1), h, c


class OverPictures(nn.Module):
    """A convolution over each step's picture, in front of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.lstm = nn.LSTM(2 * 6 * 6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, time = x.shape[:2]
        seen = torch.relu(self.conv(x.flatten(0, 1)))
        y: Tensor = self.lstm(seen.reshape(batch, time, -1))[0]
        return y


@pytest.fixture
def reported(tmp_path: Path, judged: Callable[[Path], EngineReport]) -> Callable[..., EngineReport]:
    """Exports a network without any warning, and verifies it."""

    def report(network: nn.Module, example: object) -> EngineReport:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            export(network.eval(), example, tmp_path / "m.onnx", check=False)  # type: ignore[arg-type]
        return judged(tmp_path / "m.onnx")

    return report


def test_an_lstm_that_is_called_step_by_step(
    reported: Callable[..., EngineReport], tmp_path: Path
) -> None:
    def example(batch: int, time: int) -> tuple[Tensor, ...]:
        return torch.randn(batch, time, 5), torch.zeros(2, batch, 4), torch.zeros(2, batch, 4)

    network = StepByStep()
    assert reported(network, example).passed
    contract = stateport.load(tmp_path / "m.onnx").contract
    assert [str(state) for state in contract.states] == [
        "h -> h_n: float32[2, batch, 4]",
        "c -> c_n: float32[2, batch, 4]",
    ]
    x = torch.randn(3, 11, 5)
    y, _ = stateport.load(tmp_path / "m.onnx")(x.numpy())
    with torch.no_grad():
        expected, _, _ = network(x, torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    np.testing.assert_allclose(y, expected.numpy(), rtol=0, atol=1e-5)


def test_a_convolution_over_pictures(reported: Callable[..., EngineReport]) -> None:
    def example(batch: int, time: int) -> Tensor:
        return torch.randn(batch, time, 1, 6, 6)

    assert reported(OverPictures(), example).passed


def test_axes_that_pytorch_fails_to_name_may_be_anything() -> None:
    from torch.fx.experimental import symbolic_shapes

    asked: list[object] = []

    def fails_inside_pytorch(dims: object) -> str:
        asked.append(dims)
        if len(asked) == 1:
            # The error's last frame is in PyTorch's reasoning on sizes, as in pytorch#171673.
            exec(compile("assert False", str(symbolic_shapes.__file__), "exec"))  # noqa: S102
        return "exported"

    assert with_named_axes(["batch"], fails_inside_pytorch) == "exported"
    assert asked[1] == {"batch": torch.export.Dim.DYNAMIC}


def test_an_assertion_of_the_network_is_not_taken_for_pytorchs() -> None:
    def fails(dims: object) -> str:
        raise AssertionError("of the network")

    with pytest.raises(AssertionError, match="of the network"):
        with_named_axes(["batch"], fails)


def test_an_error_inside_a_vmap_leaves_none_open() -> None:
    functorch: Any = torch._C._functorch
    depth = functorch.get_dynamic_layer_stack_depth()

    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            functorch._vmap_increment_nesting(len(x), "error")
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        torch_export(Failing(), (torch.zeros(2, 3),), None)
    assert functorch.get_dynamic_layer_stack_depth() == depth
