# SPDX-License-Identifier: Apache-2.0
"""Complex numbers inside a network become pairs of real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.associative_scan import associative_scan

from stateport_exporter import Spec, export
from stateport_exporter.capture.complex_numbers import (
    RealParts,
    has_complex_numbers,
    split_parameters,
)
from stateport_exporter.network.isolation import quiet
from tests.chunks import check_chunks

X = Spec("float32", "batch", "time", 4)


class Function(nn.Module):
    """A function of two complex tensors, which come as pairs."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        result = self.function(torch.view_as_complex(a), torch.view_as_complex(b))
        return torch.view_as_real(result) if result.is_complex() else result


def written(a: Tensor, b: Tensor) -> Tensor:
    """Parts of a tensor that are written one after the other, complex and real ones."""
    result = torch.zeros_like(a)
    result[0] = b[1]
    result[1:, 1:] = b[1:, 1:].real
    result[:, 0] += a[:, 1]
    result[torch.tensor([2, 1]), torch.tensor([2, 0])] = b[0, :2]
    return result


FUNCTIONS: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "sums": lambda a, b: a + 2 * b - 1j * a + b.real - torch.sub(a.imag, b, alpha=3),
    "from the right": lambda a, b: (1 - a) + (2j - b),
    "products": lambda a, b: a * b * 1j * b.abs() + a * 0.0 + b * (2 + 0j) * 0j,
    "quotients": lambda a, b: a / b + 1 / a + b / 2 + a / (1 + 2j) + 1j / b + b.real / a,
    "powers": lambda a, b: a**2 + b**-1 + a**0 + a ** torch.tensor([0.0, 1.0, 2.5]),
    "powers of complex exponents": lambda a, b: a**b + 2**a + (1 + 1j) ** b + b.real.abs() ** a,
    "exponentials": lambda a, b: torch.exp(a) + torch.log(b) + torch.sqrt(a) + a.square(),
    "sizes and angles": lambda a, b: a.abs() + b.angle(),
    "polar": lambda a, b: torch.polar(a.abs(), b.angle()) + torch.complex(a.real, b.real),
    "conjugates": lambda a, b: a.conj() * b + torch.conj_physical(b) - a.conj().imag,
    "matrices": lambda a, b: a @ b + torch.mm(a, b.real.to(a.dtype)) + a @ b.T.conj(),
    "a layer": lambda a, b: torch.nn.functional.linear(a, b, b[0]),
    "einsum": lambda a, b: torch.einsum("ij,jk,ik->ki", a, b, a),
    "einsum of three, one real": lambda a, b: torch.einsum("ij,jk,ik->ki", a, b.real + 0j, b),
    "added products": lambda a, b: torch.addmm(a, a, b),
    "moved": lambda a, b: torch.cat([a.T, b[:, 1:].real], 1)[..., :3].flip(0).roll(1, 1),
    "stacked": lambda a, b: torch.stack([a, b.real], 0).sum(0) + torch.stack([b, a]).mean(0),
    "split": lambda a, b: torch.cat(a.chunk(3)[::-1]) + torch.stack(b.unbind(1), 1),
    "running sums": lambda a, b: a.cumsum(0) + b.sum(0, keepdim=True),
    "choices": lambda a, b: torch.where(a.real > 0, a, b) + torch.where(b.imag > 0, b, 0.5),
    "masks": lambda a, b: a.masked_fill(b.real > 0, 0) + b.masked_fill(a.real > 0, 2j),
    "padded": lambda a, b: torch.nn.functional.pad(a, (1, 2)) + b[0, 0],
    "mirrored": lambda a, b: torch.nn.functional.pad(a[None], (1, 2), mode="reflect")[0] + b[0, 0],
    "made": lambda a, b: (
        torch.zeros(3, 3, dtype=a.dtype)
        + torch.ones_like(b)
        + a.new_full((3,), 1 + 2j)
        + a.new_zeros(3)
    ),
    "written": written,
    "filled": lambda a, b: torch.full((3, 3), 1 + 2j, dtype=a.dtype) * a + torch.full_like(b, 3),
    "a constant": lambda a, b: a * torch.tensor([1j, 2.0, 3 - 1j], dtype=a.dtype) + b,
    "converted": lambda a, b: a.real.to(a.dtype) * b + b.imag.type(a.dtype),
    "spectra": lambda a, b: torch.fft.fft(a) + torch.fft.ifft(b, dim=0) + torch.fft.fft(a, n=3),
    "spectra of real numbers": lambda a, b: torch.fft.rfft(a.real, n=5)[..., :3] * b,
    "odd inverse": lambda a, b: torch.fft.irfft(a, n=5) + torch.fft.irfft(b, n=5, dim=-1),
    "even inverse": lambda a, b: torch.fft.irfft(a, n=4) * torch.fft.irfft(b),
    "cut inverse": lambda a, b: torch.fft.irfft(a, n=3) + torch.fft.irfft(b, n=2, dim=0)[:1, :3],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_with_real_parts_is_the_same(name: str) -> None:
    network = Function(FUNCTIONS[name]).double()
    torch.manual_seed(0)
    a, b = torch.randn(3, 3, 2).double(), torch.randn(3, 3, 2).double()
    with quiet():
        program = torch.export.export(network, (a, b)).run_decompositions({})
        parts = RealParts(program)
        again = torch.export.export(parts, (a, b))

    torch.testing.assert_close(parts(a, b), network(a, b))
    torch.testing.assert_close(again.module()(a, b), network(a, b))
    has_transform = "spectra" in name or "inverse" in name
    assert has_complex_numbers(again) == has_transform


class Unit(nn.Module):
    """A linear recurrent unit (Orvieto et al. 2023), with complex parameters."""

    turn: Tensor

    def __init__(self, run: Callable[[Unit, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.size = nn.Parameter(torch.rand(6))
        self.phase = nn.Parameter(6 * torch.rand(6))
        self.b = nn.Parameter(torch.randn(6, 4, dtype=torch.cfloat) / 4)
        self.c = nn.Parameter(torch.randn(4, 6, dtype=torch.cfloat) / 6)
        self.d = nn.Parameter(torch.randn(4))
        self.register_buffer("turn", torch.tensor(1j))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        factor = torch.exp(torch.complex(-self.size.exp(), self.phase))
        taken = x.to(self.b.dtype) @ self.b.T * torch.sqrt(1 - factor.abs() ** 2) * self.turn
        return self.run(self, factor, taken) + x * self.d


def loop(unit: Unit, factor: Tensor, u: Tensor) -> Tensor:
    h, ys = torch.zeros(u.shape[0], 6, dtype=torch.cfloat), []
    for t in range(u.shape[1]):
        h = factor * h + u[:, t]
        ys.append((h @ unit.c.T).real)
    return torch.stack(ys, 1)


def scan(unit: Unit, factor: Tensor, u: Tensor) -> Tensor:
    def combine(before: Any, after: Any) -> Any:
        return before[0] * after[0], after[0] * before[1] + after[1]

    pairs = (factor.expand(u.shape), u)
    h = associative_scan(combine, pairs, dim=1, combine_mode="generic")[1]
    y: Tensor = (h @ unit.c.T).real
    return y


@pytest.mark.parametrize("run", [loop, scan])
def test_a_recurrence_of_complex_numbers_streams(
    run: Callable[..., Tensor], tmp_path: Path
) -> None:
    result = export(Unit(run).eval(), {"x": X}, tmp_path / "m.onnx")

    assert result.contract.streaming.ok
    assert [state.shape for state in result.contract.states] == [("batch", 6), ("batch", 6)]
    assert {state.dtype for state in result.contract.states} == {"float32"}
    check_chunks(result.path)


@pytest.mark.patterns
def test_a_long_convolution_takes_whole_sequences(tmp_path: Path) -> None:
    def convolved(unit: Unit, factor: Tensor, u: Tensor) -> Tensor:
        steps = u.shape[1]
        kernel = (unit.c[:, None] * factor ** torch.arange(steps)[:, None]).sum(-1).real
        spectrum = torch.fft.rfft(u.real[..., :4], n=2 * steps, dim=1)
        y = spectrum * torch.fft.rfft(kernel.T, n=2 * steps, dim=0)
        result: Tensor = torch.fft.irfft(y, n=2 * steps, dim=1)
        return result[:, :steps]

    result = export(Unit(convolved).eval(), {"x": X}, tmp_path / "m.onnx")

    assert result.report is not None
    assert result.report.passed
    assert "needs the whole sequence for a Fourier transform" in str(
        result.contract.streaming.reason
    )


class Denoiser(nn.Module):
    """Frames, their spectrum, a mask with a phase, and back; frames of a size that is no power."""

    def __init__(self, size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.size = size
        self.gru = nn.GRU(size // 2 + 1, 8, batch_first=True)
        self.mask = nn.Linear(8, size // 2 + 1)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.reshape(x.shape[0], -1, self.size)
        spectrum = torch.fft.rfft(frames)
        mask = self.mask(self.gru(spectrum.abs())[0])
        masked = spectrum * torch.polar(torch.sigmoid(mask), mask)
        y: Tensor = torch.fft.irfft(masked, n=self.size)
        return y.flatten(1)


@pytest.mark.parametrize("size", [16, pytest.param(20, marks=pytest.mark.thorough)])
def test_spectra_of_frames_stream(size: int, tmp_path: Path) -> None:
    samples = Spec("float32", "batch", "time")

    result = export(Denoiser(size).eval(), {"x": samples}, tmp_path / "m.onnx")

    assert result.contract.streaming.ok
    assert result.contract.streaming.chunk_multiple == size
    check_chunks(result.path)


def test_parameters_are_split_without_a_change() -> None:
    unit = Unit(loop).eval()
    x = torch.rand(2, 5, 4)
    expected = unit(x).detach()
    kept = {name: (value, value.requires_grad) for name, value in unit.named_parameters()}

    split_parameters(unit)

    assert type(unit).__qualname__ == "Unit"
    assert not any(value.is_complex() for value in unit.state_dict().values())
    torch.testing.assert_close(unit(x).detach(), expected)
    # They may be the parameters of the caller's network, too.
    assert all(value.requires_grad == before for value, before in kept.values())
    assert unit.get_parameter("parametrizations.b.original0").requires_grad
