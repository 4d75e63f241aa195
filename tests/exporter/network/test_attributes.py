# SPDX-License-Identifier: Apache-2.0
"""Copies of what a module has in attributes, which forward may change in place."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stateport_exporter.network.attributes import copied_attributes
from stateport_exporter.network.explicit import put_back


class Mode(enum.Enum):
    FAST = "fast"


@dataclass
class Kept:
    past: Tensor | None = None
    others: list[Any] = field(default_factory=list)


class Handle:
    """Something that is closed when it is deleted."""

    def __init__(self) -> None:
        self.closed: list[bool] = []

    def __del__(self) -> None:
        self.closed.append(True)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept(torch.zeros(1), [Kept()])
        self.same = self.kept
        self._private = [1, [2]]
        self.mode = Mode.FAST
        self.handle = Handle()
        self.layer = nn.Linear(1, 1)
        self.function = torch.tanh

    def forward(self, x: Tensor) -> Any:
        self.kept.past = x
        self.kept.others[0].past = x
        self._private[1] = 3
        return self.kept


def test_forward_changes_copies() -> None:
    network = Network()
    with put_back(network):
        returned = network(torch.ones(1))
        assert network.same.past is returned.past
    assert returned.past == 1
    assert returned.others[0].past == 1

    assert network.kept.past == 0
    assert network.kept.others[0].past is None
    assert network.same is network.kept
    assert network._private == [1, [2]]


def test_what_is_not_changed_in_place_is_not_copied() -> None:
    network = Network()
    copied = copied_attributes(network, {})
    assert copied.keys() == {"kept", "same", "_private", "mode"}
    assert copied["mode"] is Mode.FAST
    assert copied["kept"].past is network.kept.past
    assert network.handle.closed == []
