# SPDX-License-Identifier: Apache-2.0
"""Loops of which each step takes several steps of a sequence, as `x[:, t:t + 4]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stateport import verify
from stateport_exporter import Spec, export
from tests.chunks import check_chunks

X = Spec("float32", "batch", "time", 4)
THOROUGH = pytest.mark.thorough


class Net(nn.Module):
    """A GRU cell over what `windows` gives for each step."""

    def __init__(self, windows: Callable[..., Iterator[Tensor]]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.windows = windows
        self.cell, self.wide = nn.GRUCell(4, 4), nn.Linear(16, 4)
        self.conv = nn.Conv1d(4, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], 4), []
        for window in self.windows(self, x):
            h = self.cell(window, h)
            ys.append(h)
        return torch.stack(ys, 1)


def flat(net: Net, x: Tensor) -> Iterator[Tensor]:
    x = F.pad(x, (0, 0, 3, 0))
    for t in range(3, x.shape[1]):
        yield net.wide(x[:, t - 3 : t + 1].flatten(1))


def reshaped(net: Net, x: Tensor) -> Iterator[Tensor]:
    """The sizes of what is reshaped are computed in the first step alone."""
    x = F.pad(x, (0, 0, 3, 0))
    for t in range(x.shape[1] - 3):
        yield net.wide(x[:, t : t + 4].reshape(-1, 16))


def mean(net: Net, x: Tensor) -> Iterator[Tensor]:
    x = torch.cat([x.new_zeros(x.shape[0], 2, 4), x], 1)
    for t in range(x.shape[1] - 2):
        yield x[:, t : t + 3].mean(1)


def convolved(net: Net, x: Tensor) -> Iterator[Tensor]:
    x = F.pad(x.transpose(1, 2), (3, 0))
    for t in range(x.shape[2] - 3):
        yield net.conv(x[:, :, t : t + 4])[..., 0]


def two_windows(net: Net, x: Tensor) -> Iterator[Tensor]:
    x = F.pad(x, (0, 0, 3, 0))
    for t in range(3, x.shape[1]):
        yield x[:, t - 1 : t + 1].amax(1) + x[:, t - 3 : t + 1].amin(1)


@pytest.mark.parametrize(
    "windows",
    [
        pytest.param(flat, marks=THOROUGH),
        pytest.param(reshaped, marks=pytest.mark.patterns),
        pytest.param(mean, marks=THOROUGH),
        pytest.param(convolved, marks=THOROUGH),
        two_windows,
    ],
)
def test_a_window_behind_padding_streams(
    windows: Callable[..., Iterator[Tensor]], tmp_path: Path
) -> None:
    result = export(Net(windows).eval(), (X,), tmp_path / "m.onnx")
    contract = result.contract
    assert (contract.streaming.ok, contract.streaming.chunk_multiple) == (True, 1)
    assert contract.multiples == contract.minimums == contract.limits == ()
    check_chunks(result.path)
    report = verify(result.path, engines=["ort-cpu", "openvino", "onnx-reference"])
    assert report.passed


def without_padding(net: Net, x: Tensor) -> Iterator[Tensor]:
    for t in range(0, x.shape[1] - 3, 2):
        yield net.wide(x[:, t : t + 4].flatten(1))


def shorter_at_first(net: Net, x: Tensor) -> Iterator[Tensor]:
    for t in range(x.shape[1]):
        yield x[:, max(0, t - 2) : t + 1].mean(1)


def ahead(net: Net, x: Tensor) -> Iterator[Tensor]:
    x = F.pad(x, (0, 0, 1, 1))
    for t in range(1, x.shape[1] - 1):
        yield x[:, t - 1 : t + 2].mean(1)


@pytest.mark.parametrize(
    ("windows", "reason"),
    [
        pytest.param(
            without_padding, "forward cuts off the first step of each call", marks=THOROUGH
        ),
        pytest.param(
            shorter_at_first,
            "a single step of each call by cell, apart from the others",
            marks=THOROUGH,
        ),
        (ahead, "ahead"),
    ],
)
def test_other_windows_are_for_whole_sequences(
    windows: Callable[..., Iterator[Tensor]], reason: str, tmp_path: Path
) -> None:
    contract = export(Net(windows).eval(), (X,), tmp_path / "m.onnx").contract
    assert not contract.streaming.ok
    assert reason in str(contract.streaming.reason)


def second_differences(net: Net, x: Tensor) -> Iterator[Tensor]:
    """Parts of a sequence of which a longer one has as many."""
    yield from (x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]).unbind(1)


def test_parts_as_long_as_the_sequence_are_no_windows(tmp_path: Path) -> None:
    contract = export(Net(second_differences).eval(), (X,), tmp_path / "m.onnx").contract
    assert contract.outputs[0].shape == ("batch", "time - 2", 4)
