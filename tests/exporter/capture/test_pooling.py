"""`torch.max_pool1d` at any length."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stateport
from stateport_exporter import Spec, export
from stateport_exporter.capture.pooling import max_pool1d


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "no batch"])
def test_it_gives_what_pytorch_gives(batched: bool) -> None:
    x = torch.rand(2, 3, 11) if batched else torch.rand(3, 11)
    choices: Any = ([2, (3,)], [None, 1, (2,)], [0, 1], [1, (2,)], [False, True])
    for arguments in product(*choices):
        assert torch.equal(max_pool1d(x, *arguments), F.max_pool1d(x, *arguments)), arguments


def test_positions_of_the_largest_values_are_given_too() -> None:
    x = torch.rand(2, 3, 11)
    values, positions = max_pool1d(x, 2, return_indices=True)
    expected_values, expected_positions = F.max_pool1d(x, 2, return_indices=True)
    assert torch.equal(values, expected_values)
    assert torch.equal(positions, expected_positions)


@pytest.mark.parametrize("as_layer", [True, False], ids=["layer", "function"])
def test_a_moving_maximum_streams(as_layer: bool, tmp_path: Path) -> None:
    class Maximum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.MaxPool1d(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            padded = F.pad(x.transpose(1, 2), (3, 0), value=float("-inf"))
            pooled = self.pool(padded) if as_layer else torch.max_pool1d(padded, 4, 1)
            y: Tensor = pooled.transpose(1, 2)
            return y

    path = tmp_path / "m.onnx"
    export(Maximum().eval(), Spec("float32", "batch", "time", 4), path)
    assert stateport.load(path).contract.streaming.ok
