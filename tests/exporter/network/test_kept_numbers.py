"""Numbers that networks keep in tensors, and compute sizes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stateport
from stateport_exporter import Spec, export
from stateport_exporter.network.example import Example
from stateport_exporter.network.kept_numbers import with_kept_numbers
from stateport_exporter.network.number import Number, pad_by_numbers

X = Spec("float32", "batch", "time", 5)


class Codec(nn.Module):
    """A convolution as audio codecs write it: how much to pad is computed in tensors."""

    kernel: Tensor
    stride: Tensor

    def __init__(self, kernel: int, stride: int, mode: str = "constant") -> None:
        super().__init__()
        self.conv = nn.Conv1d(5, 8, kernel, stride)
        self.mode = mode
        self.register_buffer("kernel", torch.tensor(kernel), persistent=False)
        self.register_buffer("stride", torch.tensor(stride), persistent=False)
        self.total = self.kernel - self.stride

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        length = x.shape[-1]
        frames = torch.ceil((length - self.kernel + self.total) / self.stride + 1).long() - 1
        extra = frames * self.stride + self.kernel - self.total - length
        if length <= max(self.total, extra) and self.mode == "reflect":
            x = F.pad(x, (0, 9))
        padding: Any = (self.total, extra)
        result: Tensor = self.conv(F.pad(x, padding, self.mode)).transpose(1, 2)
        return result


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2), (6, 3)])
def test_padding_that_is_computed_in_tensors(kernel: int, stride: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Codec(kernel, stride).eval()
    model = stateport.load(export(net, X, tmp_path / "m.onnx").path)
    assert model.contract.streaming.ok
    assert model.contract.streaming.chunk_multiple == stride

    x = torch.randn(2, 12 * stride, 5)
    with torch.no_grad():
        expected = net(x).numpy()
    np.testing.assert_allclose(model(x.numpy())[0], expected, rtol=1e-4, atol=1e-6)
    assert isinstance(net.stride, Tensor)  # the caller's network is as it was


class Counting(nn.Module):
    """A number that a call changes is no number of the network's."""

    calls: Tensor
    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("factor", torch.tensor(3))
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.factor


def test_only_numbers_that_stay_as_they_are() -> None:
    net = Counting().eval()
    twin = with_kept_numbers(net, "forward", Example(net.forward, (X,)))
    assert twin is not None
    assert isinstance(twin.factor, Number)
    assert isinstance(twin.calls, Tensor)
    assert int(twin.calls) == 0
    assert isinstance(twin.norm.num_batches_tracked, Tensor)
    torch.testing.assert_close(twin(torch.ones(1, 2, 5)), torch.full((1, 2, 5), 3.0))

    plain = nn.Linear(5, 5)
    assert with_kept_numbers(plain, "forward", Example(plain.forward, (X,))) is None


def test_numbers_compute_as_tensors_do() -> None:
    for value in (7, -7):
        number: Any = Number(value)
        tensor = torch.tensor(value)
        for other in (2, 3, -4):
            pairs = (
                (number + other, tensor + other),
                (other - number, other - tensor),
                (number * Number(other), tensor * torch.tensor(other)),
                (number // other, tensor // other),
                (number % other, tensor % other),
                (torch.ceil(number / other).to(torch.int64), torch.ceil(tensor / other).long()),
                (torch.floor(number / other).long(), torch.floor(tensor / other).long()),
                (torch.maximum(number, _number(other)), torch.tensor(max(value, other))),
            )
            for ours, theirs in pairs:
                assert ours.item() == theirs.item()
            assert (number < other) == bool(tensor < other)
            assert (number == other) == bool(tensor == other)


def test_numbers_beside_tensors() -> None:
    x, one, two = torch.arange(6.0), *map(_number, (1, 2))
    torch.testing.assert_close(x * two, 2 * x)
    torch.testing.assert_close(two - x, 2 - x)
    assert pad_by_numbers(x, (one, 0)).shape == (7,)
    assert pad_by_numbers(x, pad=(0, two), mode="constant").shape == (8,)
    assert F.pad(x, (one, two)).shape == (9,)


def _number(value: int) -> Any:
    return Number(value)
