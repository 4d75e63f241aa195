# SPDX-License-Identifier: Apache-2.0
"""A check that what a network computes over time was found and became a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stateport_exporter import ExportError, Spec
from stateport_exporter.loops import RolledNetwork, roll_loops, roll_rounds
from stateport_exporter.network.example import Example

X = Spec("float32", "batch", "time", 5)


def check_rolled(network: nn.Module, *, loudness: float = 1.0, atol: float = 1e-5) -> RolledNetwork:
    """The network with loops, which gives what it gives for sequences of any length."""
    rolled = roll_rounds(network, "forward", Example(network.forward, (X,)))
    assert rolled is not None
    for steps in (1, 2, 7, 100):
        x = loudness * torch.randn(3, steps, 5)
        with torch.no_grad():
            torch.testing.assert_close(rolled(x), network(x), rtol=1e-4, atol=atol)
    return rolled


PAIRS = Spec("float32", "batch", "time", 2)


class Looping(nn.Module):
    """Layers for steps of two numbers, and a forward of the test's own."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.inner = nn.Linear(2, 4)
            self.recurrent = nn.Linear(4, 4)
            self.of_two = nn.Linear(8, 4)
            self.of_three = nn.Linear(12, 4)
            self.function = function

    def forward(self, *args: Tensor) -> Any:
        return self.function(self, *args)


def check_loop(function: Callable[..., Any], *, shortest: int = 1) -> None:
    """The loops of a function of `Looping` give what they give, for sequences of any length."""
    network = Looping(function).eval()
    example = Example(network.forward, (PAIRS,))
    rolled = roll_loops(network, "forward", example, ExportError("none"))
    for steps in (shortest, 2, 3, 7, 100):
        x = torch.randn(3, steps, 2)
        with torch.no_grad():
            torch.testing.assert_close(rolled(x), network(x), rtol=1e-5, atol=1e-5)
