"""`torch.cdist`, as a codebook of nearest vectors has it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stateport import load
from stateport_exporter import Spec, export
from stateport_exporter.capture.distances import cdist


@pytest.mark.parametrize("p", [0.0, 1.0, 1.5, 2.0, 3.0, float("inf")])
def test_it_gives_what_pytorch_gives(p: float) -> None:
    x, y = torch.randn(2, 5, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(cdist(x, y, p), torch.cdist(x, y, p))
    torch.testing.assert_close(cdist(x, y[:1], p), torch.cdist(x, y[:1].expand(2, -1, -1), p))


def test_what_pytorch_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="no negative p"):
        cdist(torch.zeros(2, 3), torch.zeros(2, 3), -1.0)


class Codebook(nn.Module):
    """The nearest of 16 vectors to each step, and its number."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(16, 3)
        self.gru = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.gru(x)
        codes = self.codes.weight[None].expand(y.size(0), -1, -1)
        nearest = torch.cdist(y, codes).argmin(-1)
        return self.codes(nearest), nearest


def test_a_codebook_streams(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Codebook().eval()
    result = export(network, Spec("float32", "batch", "time", 4), tmp_path / "m.onnx")
    assert result.contract.streaming.ok, result.contract.streaming.reason

    x = torch.randn(2, 9, 4)
    outputs, _ = load(tmp_path / "m.onnx").run({"x": x.numpy()})
    with torch.no_grad():
        expected = network(x)
    for answer, right in zip(outputs.values(), expected, strict=True):
        np.testing.assert_allclose(answer, right, atol=1e-6)
