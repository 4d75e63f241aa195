"""`torch.kron` at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stateport import load
from stateport_exporter import Spec, export
from stateport_exporter.capture.kronecker import kron
from tests.chunks import check_chunks


@pytest.mark.parametrize(
    ("one", "other"),
    [((2, 3), (4, 5)), ((3,), (2, 2)), ((2, 3, 4), (5,)), ((), (2,)), ((1, 2), (3, 1)), ((), ())],
)
def test_it_gives_what_pytorch_gives(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(one, generator=generator), torch.randn(other, generator=generator)
    assert torch.equal(kron(a, b), torch.kron(a, b))


class Expanded(nn.Module):
    """Each feature times each of two weights, before a layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weights = nn.Parameter(torch.randn(1, 1, 2))
        self.gru = nn.GRU(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(torch.kron(x, self.weights))[0]
        return y


def test_it_is_exported_at_any_size(tmp_path: Path) -> None:
    net = Expanded().eval()
    export(net, Spec("float32", "batch", "time", 3), tmp_path / "m.onnx")
    check_chunks(tmp_path / "m.onnx")
    x = torch.randn(5, 9, 3)
    expected = net(x).detach().numpy()
    np.testing.assert_allclose(load(tmp_path / "m.onnx")(x.numpy())[0], expected, atol=1e-6)
