# SPDX-License-Identifier: Apache-2.0
"""Layers over time with several rows for each sequence, as the bands of a dual-path network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport_exporter import ExportError, Spec, export

X = Spec("float32", "batch", "time", 8)


class Bands(nn.Module):
    """An LSTM over time for each of four bands.

    `order` says how the rows stand: bands in a sequence, sequences in a band, or all mixed.
    """

    def __init__(self, order: str, *, learned: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.order, self.learned = order, learned
        self.embed, self.rnn = nn.Linear(2, 3), nn.GRU(3, 3, batch_first=True)
        self.first = nn.Parameter(torch.randn(1, 4, 3))

    def forward(self, x: Tensor) -> Any:
        batch, time, _ = x.shape
        z = self.embed(x.reshape(batch, time, 4, 2))
        if self.order == "mixed":
            z = z + z.mean(0, keepdim=True)
        axes = (2, 0, 1, 3) if self.order == "band first" else (0, 2, 1, 3)
        rows = z.permute(*axes).reshape(batch * 4, time, 3)
        first = self.first.repeat(1, batch, 1) if self.learned else None
        y, _ = self.rnn(rows, first)
        if self.order == "band first":
            return y.reshape(4, batch, time, 3).permute(1, 2, 0, 3).flatten(2)
        return y.reshape(batch, 4, time, 3).permute(0, 2, 1, 3).flatten(2)


@pytest.mark.parametrize(
    ("network", "shape", "initial"),
    [
        (Bands("sequence first"), (1, "batch", 4, 3), "zeros"),
        (Bands("band first"), (1, 4, "batch", 3), "zeros"),
        (Bands("sequence first", learned=True), (1, "batch", 4, 3), "file"),
    ],
    ids=["sequence first", "band first", "learned"],
)
def test_each_sequence_has_its_rows(
    network: Bands, shape: tuple[int | str, ...], initial: str, tmp_path: Path
) -> None:
    result = export(network, (X,), tmp_path / "m.onnx")
    (state,) = result.contract.states
    assert (state.shape, state.initial) == (shape, initial)
    assert result.contract.streaming.ok

    x = np.random.default_rng(0).standard_normal((2, 6, 8)).astype(np.float32)
    with torch.no_grad():
        want = network(torch.from_numpy(x)).numpy()
    model = stateport.load(result.path)
    first, carried = model(x[:, :2])
    second, _ = model(x[:, 2:], carried)
    np.testing.assert_allclose(np.concatenate([first, second], 1), want, atol=1e-5)


def test_rows_that_depend_on_other_sequences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"has the shape .*'4\*batch'.*fixed number of rows"):
        export(Bands("mixed"), (X,), tmp_path / "m.onnx")
