"""What a pattern is: one way of writing a recurrent network, and a network just outside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stateport_exporter import Spec

Pairs = tuple[tuple[str, str], ...]

X = Spec("float32", "batch", "time", 5)
MAJOR = Spec("float32", "time", "batch", 5)
STEP = Spec("float32", "batch", 5)
H = Spec("float32", 1, "batch", 4)  # of a layer
ROW = Spec("float32", "batch", 4)  # of a cell

NO_STATES: Pairs = ()
HIDDEN: Pairs = (("h0", "hn"),)
HIDDEN_AND_CELL: Pairs = (("h0", "hn"), ("c0", "cn"))


@dataclass(frozen=True)
class Outside:
    """A network just outside a pattern, and what the exporter must say of it.

    `message` is a regular expression for the refusal, which names the layer's path where a layer is
    to blame, and says what to change. A network that is not `refused` is exported for whole
    sequences alone; then the message is the reason in its contract.
    """

    make: Callable[[], nn.Module]
    example: Any
    message: str
    refused: bool = True


@dataclass(frozen=True)
class Pattern:
    """One way of writing a recurrent network, with the smallest network that is written so.

    `states` are the pairs of names that the contract must have; `streams` whether it can be fed in
    chunks; `method` what is exported.
    """

    group: str
    name: str
    make: Callable[[], nn.Module]
    example: Any
    states: Pairs
    outside: Outside
    streams: bool = True
    method: str = "forward"

    def __str__(self) -> str:
        return f"{self.group}: {self.name}"


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """The network in evaluation mode, with the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def network(forward: Callable[..., Any], **parts: nn.Module | Tensor | None) -> nn.Module:
    """A module with this function as its forward; modules, parameters and buffers as its parts."""
    net: nn.Module = type(forward.__name__, (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
            net.register_buffer(name, part)
        else:
            setattr(net, name, part)
    return net


def lstm(**options: Any) -> nn.LSTM:
    """(batch, time, 5) -> (batch, time, 4)."""
    return nn.LSTM(5, 4, **{"batch_first": True, **options})


def gru(inputs: int = 5, **options: Any) -> nn.GRU:
    """(batch, time, inputs) -> (batch, time, 4)."""
    return nn.GRU(inputs, 4, **{"batch_first": True, **options})
