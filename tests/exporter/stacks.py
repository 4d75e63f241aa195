"""Small networks of each kind of recurrent part, with a linear layer behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from stateport_exporter import Spec, export

X: Final = Spec("float32", "batch", "time", 12)


class Stack(nn.Module):
    """Layers of PyTorch's own, two deep."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(12, 20, 2, batch_first=True, **options)
        self.head = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        result: Tensor = self.head(y)
        return result


class Loop(nn.Module):
    """A cell in a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(12, 20)
        self.head = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.size(0), 20)
        ys = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            ys.append(self.head(h))
        return torch.stack(ys, 1)


class Convolved(nn.Module):
    """A layer that is never quantised, before one that is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(12, 12, 1)
        self.rnn = nn.LSTM(12, 20, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.conv(x.transpose(1, 2)).transpose(1, 2))
        result: Tensor = y
        return result


KINDS: Final = {
    "LSTM": lambda: Stack("LSTM"),
    "LSTM without biases": lambda: Stack("LSTM", bias=False),
    "GRU": lambda: Stack("GRU"),
    "GRU without biases": lambda: Stack("GRU", bias=False),
    "RNN": lambda: Stack("RNN"),
    "RNN of relu": lambda: Stack("RNN", nonlinearity="relu"),
    "a loop": Loop,
}


def exported(kind: str, path: Path) -> Path:
    """A network of this kind, exported with its vectors."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Convolved() if kind == "convolved" else KINDS[kind]()
    return export(module, (X,), path).path
