"""The networks that are measured, exported once and kept in build/bench/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.lstm import ReferenceLSTM
from stateport_exporter import export

FOLDER: Final = Path("build", "bench")


@dataclass(frozen=True)
class Network:
    """An LSTM with these numbers of inputs, hidden units and layers."""

    input_size: int
    hidden_size: int
    layers: int

    def __str__(self) -> str:
        return f"{self.input_size}, {self.hidden_size}x{self.layers}"

    def module(self) -> ReferenceLSTM:
        """The network in PyTorch, with the same weights every time."""
        return ReferenceLSTM(self.input_size, self.hidden_size, self.layers).eval()

    def state_shape(self, batch: int) -> tuple[int, int, int]:
        """The shape of h and of c."""
        return self.layers, batch, self.hidden_size

    @property
    def path(self) -> Path:
        """The exported file, with its vectors beside it."""
        path = FOLDER / f"lstm-{self.input_size}-{self.hidden_size}-{self.layers}.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            module = self.module()
            export(module, module.example_inputs, path)
        return path


SMALLEST: Final = Network(5, 10, 1)
NETWORKS: Final = (
    SMALLEST,
    Network(64, 128, 1),
    Network(128, 256, 2),
    Network(256, 512, 2),
    Network(512, 1024, 2),
)
