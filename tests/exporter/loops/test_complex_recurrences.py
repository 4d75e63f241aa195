# SPDX-License-Identifier: Apache-2.0
"""Parallel scans of complex numbers, by PyTorch's complex tensors or by pairs of real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import Spec, export
from stateport_exporter.capture.complex_numbers import split_parameters
from tests.chunks import check_chunks
from tests.exporter.loops.rolled import check_rolled
from tests.exporter.loops.test_recurrences import halved, padded, written
from tests.exporter.patterns.carried import rounds as joined

X = Spec("float32", "batch", "time", 5)
Scan = Callable[[Tensor, Tensor], Tensor]


def by_pairs(a: Tensor, b: Tensor) -> Tensor:
    """In rounds, with real and imaginary parts by hand."""
    (c, d), (p, q), distance = (a.real, a.imag), (b.real, b.imag), 1
    while distance < b.shape[1]:
        c1, d1, c0, d0 = c[:, distance:], d[:, distance:], c[:, :-distance], d[:, :-distance]
        p0, q0 = p[:, :-distance], q[:, :-distance]
        p, q = (
            torch.cat([p[:, :distance], p[:, distance:] + c1 * p0 - d1 * q0], 1),
            torch.cat([q[:, :distance], q[:, distance:] + c1 * q0 + d1 * p0], 1),
        )
        c, d = (
            torch.cat([c[:, :distance], c1 * c0 - d1 * d0], 1),
            torch.cat([d[:, :distance], c1 * d0 + d1 * c0], 1),
        )
        distance *= 2
    return torch.complex(p, q)


SCANS = {scan.__name__: scan for scan in (joined, padded, halved, written, by_pairs)}


class Unit(nn.Module):
    """A layer of S5 (Smith et al. 2023); with `is_gated`, its factors depend on the input."""

    def __init__(self, scan: Scan, *, is_gated: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scan, self.is_gated = scan, is_gated
        self.factor = nn.Parameter(torch.complex(-torch.rand(4), 3 * torch.randn(4)))
        self.taken = nn.Parameter(torch.randn(4, 5, dtype=torch.cfloat))
        self.given = nn.Parameter(torch.randn(5, 4, dtype=torch.cfloat))
        self.step = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        u = torch.einsum("ph,bth->btp", self.taken, x.to(self.taken.dtype))
        if self.is_gated:
            a = torch.exp(torch.sigmoid(self.step(x)) * self.factor)
        else:
            a = torch.exp(0.3 * self.factor).expand(u.shape)
        y: Tensor = torch.einsum("hp,btp->bth", self.given, self.scan(a, u)).real
        return y + x


@pytest.mark.parametrize(
    "name",
    [
        "rounds",
        "halved",
        "by_pairs",
        pytest.param("padded", marks=pytest.mark.thorough),
        pytest.param("written", marks=pytest.mark.thorough),
    ],
)
def test_rounds_of_complex_numbers_are_a_loop(name: str) -> None:
    network = Unit(SCANS[name]).eval()
    split_parameters(network)
    check_rolled(network, atol=1e-4)


def test_factors_with_a_bound_are_those_behind_the_bound() -> None:
    """On most data they are the same as those before it."""

    def bounded(a: Tensor, b: Tensor) -> Tensor:
        return by_pairs(torch.polar(a.abs().clamp(max=0.9999), a.angle()), b)

    network = Unit(bounded, is_gated=True).eval()
    split_parameters(network)
    check_rolled(network, loudness=1e4, atol=1.0)  # with gates that are shut


@pytest.mark.thorough
def test_a_scan_of_complex_numbers_streams(tmp_path: Path) -> None:
    result = export(Unit(joined, is_gated=True).eval(), {"x": X}, tmp_path / "m.onnx")

    assert result.contract.streaming.ok
    assert [state.shape for state in result.contract.states] == [("batch", 4), ("batch", 4)]
    check_chunks(result.path)
