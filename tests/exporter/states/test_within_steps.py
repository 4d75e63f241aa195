"""Layers that run within each step of time, as in dual-path networks, have nothing to carry."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stateport import load
from stateport_exporter import ExportError, Spec, export


class DualPath(nn.Module):
    """An inner layer over the bands of each frame, an outer one over time for each band."""

    def __init__(self, *, bidirectional: bool = True) -> None:
        super().__init__()
        self.inner = nn.GRU(3, 2, batch_first=True, bidirectional=bidirectional)
        self.mix = nn.Linear(4 if bidirectional else 2, 3)
        self.outer = nn.LSTM(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, bands, size = x.shape
        frames = x.reshape(batch * time, bands, size)
        mixed = self.mix(self.inner(frames)[0]).reshape(batch, time, bands, size)
        rows = mixed.transpose(1, 2).reshape(batch * bands, time, size)
        y: Tensor = self.outer(rows)[0].reshape(batch, bands, time, size).transpose(1, 2)
        return y


class SentencesOfWords(nn.Module):
    """An inner layer over the letters of each word; its last state is the word."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.LSTM(3, 4, batch_first=True)
        self.words = nn.GRU(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, letters, size = x.shape
        words = self.letters(x.reshape(batch * time, letters, size))[1][0][0]
        y: Tensor = self.words(words.reshape(batch, time, 4))[0]
        return y


def check_chunks(network: nn.Module, path: Path, x: NDArray[np.float32]) -> None:
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    model = load(path)
    np.testing.assert_allclose(model(x)[0], expected, atol=2e-6)
    stream = model.stream()
    parts = [stream(part) for part in np.split(x, [1, 2, 5], axis=1)]
    np.testing.assert_allclose(np.concatenate(parts, 1), expected, atol=2e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_outer_layer_is_lifted_and_the_inner_one_left(
    tmp_path: Path, bidirectional: bool
) -> None:
    torch.manual_seed(0)
    network = DualPath(bidirectional=bidirectional).eval()
    result = export(network, Spec("float32", 1, "time", 4, 3), tmp_path / "m.onnx")

    assert result.contract.streaming.ok, result.contract.streaming.reason
    assert len(result.contract.states) == 2  # h and c of the outer layer
    x = np.random.default_rng(0).standard_normal((1, 8, 4, 3)).astype(np.float32)
    check_chunks(network, tmp_path / "m.onnx", x)


def test_words_of_letters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SentencesOfWords().eval()
    result = export(network, Spec("float32", "batch", "time", 6, 3), tmp_path / "m.onnx")

    assert result.contract.streaming.ok, result.contract.streaming.reason
    assert len(result.contract.states) == 1
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 3)).astype(np.float32)
    check_chunks(network, tmp_path / "m.onnx", x)


def test_a_layer_over_another_axis_without_time_is_still_refused(tmp_path: Path) -> None:
    spec = Spec("float32", "batch", "frames", 3)
    with pytest.raises(ExportError, match=r"runs over the axis 'frames'\. Call the axis"):
        export(nn.GRU(3, 2, batch_first=True), spec, tmp_path / "m.onnx")
