# SPDX-License-Identifier: Apache-2.0
"""Recurrences that are computed in rounds, whatever the rounds look like."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stateport
from stateport_exporter import Spec, export
from stateport_exporter.loops import roll_rounds
from stateport_exporter.network.example import Example
from tests.exporter.loops.rolled import check_rolled
from tests.exporter.patterns.carried import rounds as joined

X = Spec("float32", "batch", "time", 5)
Scan = Callable[[Tensor, Tensor], Tensor]


def padded(a: Tensor, b: Tensor) -> Tensor:
    """The same, with what is before the sequence put in front."""
    steps, others = b.shape[1], (0, 0) * (b.ndim - 2)
    for level in range(math.ceil(math.log2(max(steps, 2)))):
        in_front = (*others, 2**level, 0)
        b = b + a * F.pad(b, in_front)[:, :steps]
        a = a * F.pad(a, in_front, value=1.0)[:, :steps]
    return b


def halved(a: Tensor, b: Tensor) -> Tensor:
    """Blelloch 1990, by recursion: pairs of steps, and those between them."""
    steps = b.shape[1]
    if steps == 1:
        return b
    if steps % 2:
        y = halved(a[:, :-1], b[:, :-1])
        return torch.cat([y, a[:, -1:] * y[:, -1:] + b[:, -1:]], 1)

    odd = halved(a[:, 1::2] * a[:, ::2], a[:, 1::2] * b[:, ::2] + b[:, 1::2])
    even = torch.cat([b[:, :1], a[:, 2::2] * odd[:, :-1] + b[:, 2::2]], 1)
    return torch.stack([even, odd], 2).flatten(1, 2)


def written(a: Tensor, b: Tensor) -> Tensor:
    """In place, as libraries do it to save memory."""
    a, b, distance = a.clone(), b.clone(), 1
    while distance < b.shape[1]:
        moved = b[:, distance:] + a[:, distance:] * b[:, :-distance]
        products = a[:, distance:] * a[:, :-distance]
        b[:, distance:], a[:, distance:] = moved, products
        distance *= 2
    return b


SCANS = {scan.__name__: scan for scan in (joined, padded, halved, written)}


class Gated(nn.Module):
    """minGRU (Feng et al. 2024), with a layer before and behind."""

    def __init__(self, scan: Scan) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.value, self.head = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 5)
        self.scan = scan

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x))
        y: Tensor = self.head(self.scan(1 - gate, gate * self.value(x)))
        return y


class Selective(nn.Module):
    """Mamba's state space (Gu and Dao 2023), behind its convolution; the scan is over axis 1."""

    def __init__(self, scan: Scan) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.delta = nn.Conv1d(5, 5, 4, padding=3, groups=5), nn.Linear(5, 5)
        self.b, self.c, self.log = nn.Linear(5, 3), nn.Linear(5, 3), nn.Parameter(torch.rand(5, 3))
        self.scan = scan

    def forward(self, x: Tensor) -> Tensor:
        u = F.silu(self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        delta = F.softplus(self.delta(u))[..., None]
        states = self.scan(
            torch.exp(-delta * self.log.exp()), delta * self.b(u)[:, :, None] * u[..., None]
        )
        y: Tensor = (states * self.c(u)[:, :, None]).sum(-1)
        return y


def stacked(scan: Scan) -> nn.Module:
    return nn.Sequential(Gated(scan), nn.LayerNorm(5), Gated(scan))


class BesideALayer(nn.Module):
    """A scan over the results of a GRU."""

    def __init__(self, scan: Scan) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru, self.gated = nn.GRU(5, 5, batch_first=True), Gated(scan)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gated(self.gru(x)[0])
        return y


class BeforeALoop(nn.Module):
    """A loop over the results of a scan, whose rounds differ from length to length."""

    def __init__(self, scan: Scan) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gated, self.cell = Gated(scan), nn.GRUCell(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gated(x)
        h, ys = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)


KINDS = (Selective, stacked, BesideALayer, BeforeALoop)
FORMS = [*((name, Gated) for name in SCANS), *(("rounds", make) for make in KINDS)]


@pytest.mark.parametrize(("name", "make"), FORMS)
def test_rounds_are_a_loop_of_any_length(name: str, make: Callable[[Scan], nn.Module]) -> None:
    check_rolled(make(SCANS[name]).eval())


NEARLY: dict[str, Scan] = {
    "a factor with an epsilon": lambda a, b: padded(a + 1e-6, b),
    "a summand with an epsilon": lambda a, b: padded(a, b + 1e-6),
    "a factor with a bound": lambda a, b: padded(a.clamp(max=0.999), b),
    "a state that is cleared on rare data": lambda a, b: padded(a * (b.abs() < 20), b),
    "a factor that is 0.9 but on rare data": lambda _, b: padded(
        torch.where((b == 0).all(-1, keepdim=True), 0.0, 0.9).expand_as(b).to(b.dtype), b
    ),
    "a side value that is the summand but on rare data": lambda a, b: (
        padded(a, b) * torch.tanh(b.clamp(-20, 20))
    ),
    "a result with a bound": lambda a, b: padded(a, b).clamp(-40, 40),
}


@pytest.mark.parametrize("name", NEARLY)
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_what_differs_on_rare_data_alone_is_kept(name: str, scale: float) -> None:
    net = Gated(NEARLY[name]).double().eval()
    nn.init.zeros_(net.value.bias)  # a summand is zero where the input is
    rolled = roll_rounds(net, "forward", Example(net.forward, (Spec("float64", *X.shape),)))
    assert rolled is not None
    x = scale * torch.randn(4, 90, 5, dtype=torch.float64)
    x[:, 30:40] = 0
    with torch.no_grad():
        torch.testing.assert_close(rolled(x), net(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [Gated, BeforeALoop])
def test_rounds_stream(make: Callable[[Scan], nn.Module], tmp_path: Path) -> None:
    net = make(padded).eval()
    result = export(net, (X,), tmp_path / "model.onnx")
    assert dict(result.contract.limits) == {}
    x = torch.randn(2, 100, 5)
    expected = net(x).detach().numpy()

    chunks, stream = [], stateport.load(result.path).stream()
    for start, stop in ((0, 1), (1, 3), (3, 40), (40, 100)):
        chunks.append(stream(x[:, start:stop].numpy()))
    np.testing.assert_allclose(np.concatenate(chunks, 1), expected, rtol=1e-4, atol=1e-5)


def backwards(a: Tensor, b: Tensor) -> Tensor:
    return padded(a.flip(1), b.flip(1)).flip(1)


def test_rounds_from_the_end_take_whole_sequences(tmp_path: Path) -> None:
    contract = export(Gated(backwards).eval(), (X,), tmp_path / "model.onnx").contract
    assert not contract.streaming.ok
    assert contract.streaming.reason is not None
    assert "reverses time" in contract.streaming.reason
