"""`torch.take_along_dim` at any size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stateport import load
from stateport_exporter import Spec, export
from stateport_exporter.capture.take_along import take_along_dim

X = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("values", "indices", "dim"),
    [
        (X, X.argsort(1), 1),
        (X, X.argsort(1)[:, :2], -2),
        (X, torch.tensor([[[0, 1, 2, 3, 3]]]), 1),
        (X[:1], X.argsort(1), 1),
        (X, torch.tensor([[[4, 0]]]), -1),
        (X, torch.tensor([2, 59, 0]), None),
    ],
    ids=["all", "some", "one for all rows", "one row for all", "two of the last", "flat"],
)
def test_it_gives_what_pytorch_gives(values: Tensor, indices: Tensor, dim: int | None) -> None:
    expected = torch.take_along_dim(values, indices, dim)
    assert torch.equal(take_along_dim(values, indices, dim), expected)


def test_a_dimension_that_is_not_there_is_refused() -> None:
    with pytest.raises(IndexError, match="dim is 5; the array has 3 dimensions"):
        take_along_dim(X, X.argsort(1), 5)


class Sorted(nn.Module):
    """The features of each step, the largest first."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x)
        largest_first: Tensor = y.take_along_dim(y.argsort(-1, descending=True), -1)
        return largest_first


def test_it_is_exported_at_any_size(tmp_path: Path) -> None:
    network = Sorted().eval()
    export(network, Spec("float32", "batch", "time", 3), tmp_path / "m.onnx", check=False)
    x = torch.randn(5, 9, 3)
    with torch.no_grad():
        expected = network(x).numpy()
    np.testing.assert_allclose(load(tmp_path / "m.onnx")(x.numpy())[0], expected, atol=1e-6)
