"""The networks that are broken: small ones, each of another kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.lstm import ReferenceLSTM
from stateport_exporter import export

INPUTS: Final = 5
HIDDEN: Final = 8
VOCABULARY: Final = 12

Example = Callable[[int, int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Network:
    """How a network is made, and what its forward takes at any batch and time."""

    make: Callable[[], nn.Module]
    example: Example


class StackedGRU(nn.Module):
    """Two layers whose state is made inside and not returned; a residual layer on every step."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(INPUTS, HIDDEN, 2, batch_first=True)
        self.linear = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, inputs) -> (batch, time, hidden)."""
        y: Tensor = self.gru(x)[0]
        z: Tensor = y + self.linear(y)
        return z


class StackedRNN(nn.Module):
    """Two layers with tanh, state passed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(INPUTS, HIDDEN, 2, batch_first=True)

    def forward(self, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, time, inputs) and the state -> (batch, time, hidden) and the next state."""
        y, hn = self.rnn(x, h0)
        return y, hn


class ConvLSTM(nn.Module):
    """A causal convolution before an LSTM; its context is a state of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(INPUTS, HIDDEN, kernel_size=3)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, inputs) -> (batch, time, hidden)."""
        padded = nn.functional.pad(x.transpose(1, 2), (2, 0))
        y: Tensor = self.lstm(self.conv(padded).relu().transpose(1, 2))[0]
        return y


class PackedGRU(nn.Module):
    """Two layers in both directions over sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(INPUTS, HIDDEN, 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, time, inputs) and the lengths of rows -> (batch, time, 2 * hidden)."""
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y: Tensor = pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]
        return y


class PeepholeLoop(nn.Module):
    """An LSTM whose gates see the cell state, as a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(INPUTS + HIDDEN, 4 * HIDDEN)
        self.peephole = nn.Parameter(torch.randn(3, HIDDEN))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, time, inputs), h and c -> (batch, time, hidden) and the next h and c."""
        ys = []
        for t in range(x.size(1)):
            i, f, g, o = self.gates(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            i = torch.sigmoid(i + self.peephole[0] * c)
            c = torch.sigmoid(f + self.peephole[1] * c) * c + i * torch.tanh(g)
            h = torch.sigmoid(o + self.peephole[2] * c) * torch.tanh(c)
            ys.append(h)
        return torch.stack(ys, 1), h, c


class Tagger(nn.Module):
    """An embedding, an LSTM of two layers, and a linear head on every step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, 2, batch_first=True)
        self.head = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, tokens: Tensor, h0: Tensor, c0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """int64 (batch, time) and the state -> (batch, time, hidden) and the next state."""
        y, (hn, cn) = self.lstm(self.embedding(tokens), (h0, c0))
        return self.head(y), hn, cn


def _lstm() -> ReferenceLSTM:
    return ReferenceLSTM(INPUTS, HIDDEN)


def _bidirectional() -> ReferenceLSTM:
    return ReferenceLSTM(INPUTS, HIDDEN, 2, bidirectional=True)


def _projected() -> ReferenceLSTM:
    return ReferenceLSTM(INPUTS, 2 * HIDDEN, batch_first=False, proj_size=HIDDEN)


def _sequence(batch: int, time: int) -> Tensor:
    return torch.randn(batch, time, INPUTS)


def _tokens(batch: int, time: int) -> tuple[Tensor, ...]:
    state = torch.zeros(2, batch, HIDDEN)
    return torch.randint(VOCABULARY, (batch, time)), state, state


def _packed(batch: int, time: int) -> tuple[Tensor, ...]:
    return _sequence(batch, time), torch.full((batch,), time)


def _with_rows(batch: int, time: int) -> tuple[Tensor, ...]:
    state = torch.zeros(batch, HIDDEN)
    return _sequence(batch, time), state, state


NETWORKS: Final[dict[str, Network]] = {
    "LSTM": Network(_lstm, _lstm().example_inputs),
    "bidirectional LSTM": Network(_bidirectional, _bidirectional().example_inputs),
    "stacked GRU": Network(StackedGRU, lambda batch, time: (_sequence(batch, time),)),
    "stacked RNN": Network(
        StackedRNN, lambda batch, time: (_sequence(batch, time), torch.zeros(2, batch, HIDDEN))
    ),
    "convolution and LSTM": Network(ConvLSTM, lambda batch, time: (_sequence(batch, time),)),
    "projected LSTM": Network(_projected, _projected().example_inputs),
    "packed GRU": Network(PackedGRU, _packed),
    "loop over time": Network(PeepholeLoop, _with_rows),
    "embedding and LSTM": Network(Tagger, _tokens),
}


def exported(name: str, folder: Path) -> Path:
    """Exports a network, with the same weights every time, and its vectors beside it."""
    path = folder / f"{name.replace(' ', '-')}.onnx"
    network = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = network.make().eval()
        export(module, network.example, path)
    return path
