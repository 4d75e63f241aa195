"""The networks that run in Node and in Chromium: nine exports, three of them made for this."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from stateport_exporter import ExportResult, Spec, export
from tests.references import REFERENCES


class LearnedStart(nn.Module):
    """A GRU whose first state is a parameter, so that the file has its values."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 8, batch_first=True)
        self.start = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, 5) -> (batch, time, 8)."""
        y: torch.Tensor
        y, _ = self.gru(x, self.start.expand(-1, x.shape[0], -1).contiguous())
        return y


class Strided(nn.Module):
    """A convolution that divides time by 2, before a GRU: chunks are multiples of 2 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(5, 6, 2, stride=2)
        self.gru = nn.GRU(6, 7, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, 5) -> (batch, time / 2, 7)."""
        y: torch.Tensor
        y, _ = self.gru(self.convolution(x.transpose(1, 2)).transpose(1, 2))
        return y


#: By name: how a network is made, and the options of its export.
_OTHERS: Final[dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]]] = {
    "learned start": (LearnedStart, {}),
    "strided": (Strided, {}),
    "float16": (LearnedStart, {"dtype": "float16"}),
}
NETWORKS: Final = (*REFERENCES, *_OTHERS)


def exported(name: str, path: Path) -> ExportResult:
    """Writes the file of a network."""
    torch.manual_seed(0)
    if name in REFERENCES:
        module: Any = REFERENCES[name]()
        return export(module, module.example_inputs, path)
    make, options = _OTHERS[name]
    return export(make(), (Spec("float32", "batch", "time", 5),), path, **options)
