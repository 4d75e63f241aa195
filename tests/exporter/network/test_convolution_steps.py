# SPDX-License-Identifier: Apache-2.0
"""Steps of the call before, at places that are no convolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import Spec, export
from tests.chunks import check_chunks

X = Spec("float32", "batch", "time", 4)


def joined(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)


def written(x: Tensor) -> Tensor:
    moved = torch.zeros_like(x)
    moved[:, 1:] = x[:, :-1]
    return moved


def written_by_two(x: Tensor) -> Tensor:
    moved = x.new_full(x.shape, 0.5)
    moved[:, 2:, :] = x[:, :-2, :]
    return moved


class Moved(nn.Module):
    """A shift of time before a GRU."""

    def __init__(self, move: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.move = move
        self.gru = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(x + self.move(x))[0]
        return y


class Segments(nn.Module):
    """As SkiM: an LSTM within segments of four steps, and one over the segments' states."""

    def __init__(self, move: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.move = move
        self.inner, self.later = nn.LSTM(4, 6, batch_first=True), nn.LSTM(4, 6, batch_first=True)
        self.over_h, self.over_c = nn.GRU(6, 6, batch_first=True), nn.GRU(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        rows = batch * (time // 4)
        segments = x.reshape(rows, 4, 4)
        _, (h, c) = self.inner(segments)
        h, _ = self.over_h(h.reshape(batch, time // 4, 6))
        c, _ = self.over_c(c.reshape(batch, time // 4, 6))
        states = self.move(h).reshape(1, rows, 6), self.move(c).reshape(1, rows, 6)
        y: Tensor = self.later(segments, states)[0]
        return y.reshape(batch, time, 6)


@pytest.mark.parametrize(
    ("move", "shape"),
    [(joined, ("batch", 1, 4)), (written, ("batch", 1, 4)), (written_by_two, ("batch", 2, 4))],
)
def test_a_shift_of_time_carries_its_steps(move: Any, shape: Any, tmp_path: Path) -> None:
    result = export(Moved(move).eval(), (X,), tmp_path / "model.onnx")
    assert result.contract.streaming.ok
    assert {state.input: state.shape for state in result.contract.states}["frames"] == shape
    check_chunks(tmp_path / "model.onnx")


@pytest.mark.parametrize("move", [joined, written])
def test_states_of_segments_are_carried_to_the_next_segment(move: Any, tmp_path: Path) -> None:
    result = export(Segments(move).eval(), (X,), tmp_path / "model.onnx")
    assert result.contract.streaming.ok
    assert result.contract.streaming.chunk_multiple == 4
    assert {"frames", "frames_2"} < {state.input for state in result.contract.states}
    check_chunks(tmp_path / "model.onnx")


def test_unknown_sizes_share_no_name(tmp_path: Path) -> None:
    """ONNX Runtime takes axes of one name for axes of one size."""
    export(Segments(written).eval(), (X,), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    sizes = [each.type.tensor_type.shape.dim for each in model.graph.value_info]
    assert sizes
    assert "None" not in {dim.dim_param for shape in sizes for dim in shape}
