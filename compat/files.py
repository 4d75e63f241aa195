"""The files that every runtime is given, exported with the development environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compat.check_runtime import OPSETS
from models.lstm import reference
from stateport_exporter import export, quantize


class GRU(nn.Module):
    """A GRU whose state is hidden: the file has it as an input and an output."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (batch, time, 5), the result (batch, time, 8)."""
        y: Tensor = self.gru(x)[0]
        return y

    def example_inputs(self, batch: int, time: int) -> Tensor:
        """What forward takes."""
        return torch.randn(batch, time, 5)


class Stepped(nn.Module):
    """A cell in a Python loop over time, which becomes ONNX's Scan."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(13, 8)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes: x (batch, time, 5), h (batch, 8); the result (batch, time, 8), and h."""
        steps = []
        for step in range(x.size(1)):
            h = torch.tanh(self.cell(torch.cat([x[:, step], h], 1)))
            steps.append(h)
        return torch.stack(steps, 1), h

    def example_inputs(self, batch: int, time: int) -> tuple[Tensor, Tensor]:
        """What forward takes."""
        return torch.randn(batch, time, 5), torch.zeros(batch, 8)


def write_files(folder: Path) -> None:
    """Exports the reference LSTM at every opset, a GRU, a loop, and the LSTM in 8 bits."""
    for opset in OPSETS:
        _export(reference(), folder / f"lstm.{opset}.onnx", opset)
    _export(GRU().eval(), folder / "gru.onnx", OPSETS[0])
    _export(Stepped().eval(), folder / "loop.onnx", OPSETS[0])
    quantize(folder / f"lstm.{OPSETS[0]}.onnx", folder / "int8.onnx")


def _export(network: Any, path: Path, opset: int) -> None:
    # It is verified by the environments that are tried.
    export(network, network.example_inputs, path, opset=opset, check=False)
