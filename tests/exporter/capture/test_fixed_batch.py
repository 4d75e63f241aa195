"""A network that is made for one batch is refused with that batch, the line and the remedy."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import ExportError, Spec, export

X = Spec("float32", "batch", "time", 3)


class FirstState(nn.Module):
    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.lstm = nn.LSTM(3, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.zeros(1, self.batch, 2)
        hidden: Tensor = self.lstm(x, (zeros, zeros))[0]
        return hidden


class Buffer(nn.Module):
    def __init__(self, batch: int) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 2, batch_first=True)
        self.register_buffer("first", torch.zeros(1, batch, 2))

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.gru(x, self.first)[0]
        return hidden


@pytest.mark.parametrize("batch", [1, 8, 17])
@pytest.mark.parametrize("kind", [FirstState, Buffer])
def test_the_batch_is_named(tmp_path: Path, kind: type[nn.Module], batch: int) -> None:
    says = rf"{kind.__name__} is made for a batch of {batch} \(test_fixed_batch\.py.*x\.shape\[0\]"
    with pytest.raises(ExportError, match=says):
        export(kind(batch), X, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [FirstState, Buffer])
def test_it_exports_for_that_batch_alone(tmp_path: Path, kind: type[nn.Module]) -> None:
    result = export(kind(4), Spec("float32", 4, "time", 3), tmp_path / "m.onnx")
    assert result.contract.inputs[0].shape == (4, "time", 3)


def test_a_network_that_fails_at_every_batch_says_why(tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ torch.zeros(4, 4)

    with pytest.raises(ExportError, match="Broken could not be traced"):
        export(Broken(), X, tmp_path / "m.onnx")
