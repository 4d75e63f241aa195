"""Networks that cannot be fed in chunks, and why; and beside each one that can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Function = Callable[[Tensor], Tensor]


class Around(nn.Module):
    """A GRU with something before it and something behind it; (batch, time, 8) goes through."""

    def __init__(
        self, before: Function | None = None, behind: Function | None = None, **options: bool
    ) -> None:
        super().__init__()
        self.before = before or nn.Identity()
        self.gru = nn.GRU(8, 8, batch_first=True, **options)
        self.behind = behind or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(self.before(x))
        result: Tensor = self.behind(y)
        return result


class Features(nn.Module):
    """What works on (batch, features, time), in between."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x.transpose(1, 2)).transpose(1, 2)
        return result


class Apply(nn.Module):
    """A function as a module, so that a reason has a name to go by."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Token(nn.Module):
    """A learned step joined to a sequence; `kept` says whether it stays in front."""

    def __init__(self, *, kept: bool) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 8))
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.token.expand(x.size(0), 1, 8), x], 1)
        return joined if self.kept else joined[:, :-1]


class Denoiser(nn.Module):
    """Strided convolution, LSTM, transposed convolution; what is cut off at which end."""

    def __init__(self, *, right: bool) -> None:
        super().__init__()
        self.right = right
        self.analysis = nn.Conv1d(8, 12, 6, stride=4)
        self.lstm = nn.LSTM(12, 12, batch_first=True)
        self.synthesis = nn.ConvTranspose1d(12, 8, 6, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.analysis(F.pad(x.transpose(1, 2), (2, 0)))
        y, _ = self.lstm(z.transpose(1, 2))
        y = self.synthesis(y.transpose(1, 2)).transpose(1, 2)
        result: Tensor = y[:, :-2] if self.right else y[:, 2:]
        return result


def _attention(x: Tensor) -> Tensor:
    result: Tensor = torch.softmax(x @ x.transpose(1, 2), 2) @ x
    return result


class Positions(nn.Module):
    """Adds a vector of a table for each position; the table has an end."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4096, 8)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.table(torch.arange(x.size(1)))
        return result


class Decoder(nn.Module):
    """An encoder, and a loop behind it; `from_encoder` says what the loop starts from."""

    def __init__(self, *, from_encoder: bool) -> None:
        super().__init__()
        self.encoder, self.cell = nn.GRU(8, 8, batch_first=True), nn.GRUCell(8, 8)
        self.from_encoder = from_encoder

    def forward(self, x: Tensor) -> Tensor:
        y, last = self.encoder(x)
        h, hs = last[0] if self.from_encoder else torch.zeros_like(x[:, 0]), []
        for t in range(x.size(1)):
            h = self.cell(y[:, t], h)
            hs.append(h)
        return torch.stack(hs, 1)


class OtherStep(nn.Module):
    """A loop in which one step differs: the last but one of each call, or none."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.cell, self.last = nn.RNNCell(8, 8), last

    def forward(self, x: Tensor) -> Tensor:
        h, hs = torch.zeros_like(x[:, 0]), []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            if self.last and t == x.size(1) - 2:
                h = torch.relu(h)
            hs.append(h)
        return torch.stack(hs, 1)


def _from_the_first(y: Tensor) -> Tensor:
    """The difference of each step from the first one of the call, which stays as it is."""
    return torch.cat([y[:, :1], y[:, 1:] - y[:, :1]], 1)


def _joined_again(y: Tensor) -> Tensor:
    return torch.cat([y[:, :1], y[:, 1:]], 1)


def _counted(x: Tensor) -> Tensor:
    return x + torch.arange(x.size(1))[:, None] / 8


#: A reason -> a network that has it, and one that has not, and by how many steps that one's chunks
#: have to be divided.
REASONS: Final[dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], int]]] = {
    "gru is bidirectional: its backward half needs the whole sequence": (
        lambda: Around(bidirectional=True),
        lambda: Around(),
        1,
    ),
    "behind takes the mean over time": (
        lambda: Around(behind=Apply(lambda y: y.mean(1))),
        lambda: Around(behind=Apply(lambda y: y.mean(2))),
        1,
    ),
    "behind takes the maximum over time": (
        lambda: Around(behind=Apply(lambda y: y.amax(1))),
        lambda: Around(behind=Apply(lambda y: y.amax(2))),
        1,
    ),
    "behind takes a softmax over time": (
        lambda: Around(behind=Apply(lambda y: torch.softmax(y, 1))),
        lambda: Around(behind=Apply(lambda y: torch.softmax(y, 2))),
        1,
    ),
    "before.inner.0 normalises over time": (
        lambda: Around(Features(nn.InstanceNorm1d(8))),
        lambda: Around(Features(nn.BatchNorm1d(8))),
        1,
    ),
    "before multiplies steps with one another, as attention does": (
        lambda: Around(Apply(_attention)),
        lambda: Around(Apply(lambda x: x @ (torch.ones(8, 8) / 8))),
        1,
    ),
    "before reverses time": (
        lambda: Around(Apply(lambda x: x.flip(1))),
        lambda: Around(Apply(lambda x: x.flip(2))),
        1,
    ),
    "behind flattens time into the features": (
        lambda: Around(behind=Apply(lambda y: y.transpose(1, 2).flatten(1))),
        lambda: Around(behind=Apply(lambda y: y.flatten(1))),
        1,
    ),
    "before.inner.0 pads 1 step on the right: it looks ahead": (
        lambda: Around(Features(nn.Conv1d(8, 8, 3, padding=1))),
        lambda: Around(Features(nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(8, 8, 3))),
        1,
    ),
    "before.inner.1 pads 2 steps on the right: it looks ahead": (
        lambda: Around(Features(nn.ConstantPad1d((0, 2), 0.0), nn.Conv1d(8, 8, 3))),
        lambda: Around(Features(nn.ConstantPad1d((2, 0), 0.5), nn.Conv1d(8, 8, 3))),
        1,
    ),
    "before.inner.0 looks at 3 steps at a time: windows that overlap two chunks are lost": (
        lambda: Around(Features(nn.Conv1d(8, 8, 3))),
        lambda: Around(Features(nn.Conv1d(8, 8, 1))),
        1,
    ),
    "before.inner.0 looks at 4 steps at a time, every 2, without as many in front: windows that "
    "overlap two chunks are lost": (
        lambda: Around(Features(nn.AvgPool1d(4, 2))),
        lambda: Around(Features(nn.AvgPool1d(2))),
        2,
    ),
    "behind.inner.0 gives outputs that overlap by 2 steps, and keeps those at the end": (
        lambda: Around(behind=Features(nn.ConvTranspose1d(8, 8, 4, stride=2))),
        lambda: Around(behind=Features(nn.ConvTranspose1d(8, 8, 2, stride=2))),
        1,
    ),
    "synthesis gives outputs that overlap by 2 steps, and keeps those at the end": (
        lambda: Denoiser(right=False),
        lambda: Denoiser(right=True),
        4,
    ),
    "before sums up from the beginning of each call": (
        lambda: Around(Apply(lambda x: x.clone().cumsum_(1))),
        lambda: Around(Apply(lambda x: x.cumsum(1))),
        1,
    ),
    "before counts the steps from the beginning of each call": (
        lambda: Around(Positions()),
        lambda: Around(Apply(_counted)),
        1,
    ),
    "before joins steps of its own to the sequence in each call": (
        lambda: Around(Token(kept=True)),
        lambda: Around(Token(kept=False)),
        1,
    ),
    "before cuts off the first step of each call": (
        lambda: Around(Apply(lambda x: x[:, 1:])),
        lambda: Around(Apply(lambda x: x[:, :, :])),
        1,
    ),
    "cell starts in each call from what encoder gives for that call": (
        lambda: Decoder(from_encoder=True),
        lambda: Decoder(from_encoder=False),
        1,
    ),
    "forward computes a single step of each call by cell, apart from the others": (
        lambda: OtherStep(last=True),
        lambda: OtherStep(last=False),
        1,
    ),
    "behind computes the first step of each call apart from the others": (
        lambda: Around(behind=Apply(_from_the_first)),
        lambda: Around(behind=Apply(_joined_again)),
        1,
    ),
    "behind takes step 0 of each call": (
        lambda: Around(behind=Apply(lambda y: y[:, 0])),
        lambda: Around(behind=Apply(lambda y: y[:, -1])),
        1,
    ),
}
