# SPDX-License-Identifier: Apache-2.0
"""A check that what a network computes over time was found and became a loop."""

from __future__ import annotations

import torch
from torch import nn

from stateport_exporter import Spec
from stateport_exporter.loops import RolledNetwork, roll_rounds
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
