# SPDX-License-Identifier: Apache-2.0
"""Functions with `functools.lru_cache`: the author's cache is neither used nor changed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import ExportError, Spec, export
from stateport_exporter.memory.caches import check_caches, uncached
from stateport_exporter.network.example import Example

X = Spec("float32", "batch", "time", 4)


@functools.lru_cache(maxsize=8)
def positions(count: int) -> Tensor:
    return torch.arange(count).float()


@functools.cache
def memory() -> dict[str, Tensor]:
    return {"sum": torch.zeros(4)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)
        self.table = functools.lru_cache(lambda count: torch.ones(count))

    @functools.lru_cache  # noqa: B019
    def scale(self, count: int) -> Tensor:
        return torch.full((count,), 2.0)

    def forward(self, x: Tensor) -> Any:
        steps = positions(x.shape[1])[:, None] * 0
        return self.rnn(x + steps)[0] * self.scale(4) * self.table(4)


class Remembers(Net):
    def forward(self, x: Tensor) -> Any:
        kept = memory()
        y = self.rnn(x + kept["sum"])[0]
        kept["sum"] = kept["sum"] + 1
        return y


def sizes(network: Net) -> list[int]:
    caches: list[Any] = [positions, Net.scale, network.table]
    return [cache.cache_info().currsize for cache in caches]


def test_caches_stay_as_they_were(tmp_path: Path) -> None:
    network = Net().eval()
    network(torch.ones(1, 3, 4))
    before = sizes(network)
    export(network, (X,), tmp_path / "m.onnx")
    assert sizes(network) == before
    assert type(positions(3)) is Tensor


def test_functions_are_called_themselves() -> None:
    network = Net()
    with uncached(network) as names:
        assert any("positions" in name for name in names)
        assert any("scale" in name for name in names)
        assert positions(3) is not positions(3)
        assert network.scale(4) is not network.scale(4)
    assert positions(3) is positions(3)


def test_a_cache_that_is_a_memory_is_refused(tmp_path: Path) -> None:
    network = Remembers()
    check_caches(Net(), "forward", Example(Net().forward, (X,)))
    with pytest.raises(ExportError, match="depend on what the cache of memory"):
        export(network, (X,), tmp_path / "m.onnx")
