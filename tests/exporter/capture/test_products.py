# SPDX-License-Identifier: Apache-2.0
"""Products of a matrix and a vector inside `torch.vmap`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from stateport_exporter import Spec, export
from stateport_exporter.capture.products import product
from tests.chunks import check_chunks

X = Spec("float32", "batch", "time", 4)


class EachStep(nn.Module):
    """Multiplies each step of each row by one matrix, as state-space layers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.gru = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        def row(steps: Tensor) -> Tensor:
            result: Tensor = torch.vmap(lambda step: self.weight @ step)(steps)
            return result

        mixed = torch.vmap(row)(x)
        y: Tensor = self.gru(mixed)[0]
        return y


def test_it_gives_what_matmul_gives() -> None:
    left, right = torch.randn(3, 4), torch.randn(4)
    assert torch.equal(product(left, right), left @ right)
    assert torch.equal(product(left, torch.randn(4, 2).fill_(1)), left @ torch.ones(4, 2))
    batched = torch.vmap(lambda vector: product(left, vector))(torch.stack([right, -right]))
    torch.testing.assert_close(batched, torch.stack([left @ right, left @ -right]))


def test_a_network_with_vmap_streams(tmp_path: Path) -> None:
    path = export(EachStep().eval(), X, tmp_path / "m.onnx").path
    check_chunks(path)
