"""Networks that compare their sizes with something, each by a function of its input and output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stateport_exporter import Spec
from stateport_exporter.example import Example

X = Spec("float32", "batch", "time", 5)
After = Callable[[Any, Tensor, Tensor], Any]


class Comparing(nn.Module):
    """A GRU; `after` makes its result of (network, x, y)."""

    def __init__(self, after: After) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.gru = nn.GRU(5, 6, batch_first=True)
            self.conv = nn.Conv1d(5, 3, 3, stride=2, padding=1)
            self.table = nn.Parameter(torch.randn(1024, 6))
        self.after = after
        self.limit, self.scale = 300, 40

    def forward(self, x: Tensor) -> Any:
        return self.after(self, x, self.gru(x)[0])


class Looping(nn.Module):
    """A loop written by hand; `step` makes the next state of (network, step, state, x)."""

    def __init__(self, step: Callable[[Any, int, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.cell = nn.Linear(11, 6)
            self.table = nn.Parameter(torch.randn(1024, 6))
        self.step = step
        self.limit, self.scale = 300, 40
        self.special = {333, 4444}
        self.gains = [1.0] * 100 + [2.0] * 1000

    def forward(self, x: Tensor) -> Tensor:
        h, steps = x.new_zeros(x.size(0), 6), []
        for t in range(x.size(1)):
            h = torch.tanh(self.cell(torch.cat([x[:, t], h], -1)))
            h = self.step(self, t, h, x)
            steps.append(h)
        return torch.stack(steps, 1)


def example_of(network: nn.Module) -> Example:
    """Its example: (batch, time, 5)."""
    return Example(network.forward, (X,))
