"""Networks that keep something from call to call, each by a function of itself and its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stateport_exporter import Spec
from stateport_exporter.example import Example
from stateport_exporter.memory.check import check_kept

X = Spec("float32", "batch", "time", 5)
After = Callable[[Any, Tensor, Tensor], Any]


class Keeping(nn.Module):
    """A GRU; `after` makes its result of (network, x, y). `kept` are attributes to begin with."""

    def __init__(self, after: After, **kept: Any) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.gru = nn.GRU(5, 6, batch_first=True)
        self.after = after
        for name, value in kept.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.after(self, x, self.gru(x)[0])


def check(network: nn.Module) -> None:
    """Checks a network whose graph holds none of its tensors."""
    check_kept(network.eval(), "forward", Example(network.forward, (X,)), [])
