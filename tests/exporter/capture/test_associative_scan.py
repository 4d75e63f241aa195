# SPDX-License-Identifier: Apache-2.0
"""`associative_scan` with functions of all kinds becomes a loop over time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.associative_scan import associative_scan

import stateport
from stateport_exporter import ExportError, Spec, export
from tests.chunks import check_chunks

X = Spec("float32", "batch", "time", 6)


class Network(nn.Module):
    """A layer, and what is done with its results."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.run = nn.Linear(6, 6), run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.layer(x))


def scanned(combine: Callable[..., Any], values: Any) -> Any:
    return associative_scan(combine, values, dim=1, combine_mode="generic")


def largest(u: Tensor) -> Tensor:
    """Begins with minus infinity."""
    result: Tensor = scanned(torch.maximum, u)
    return result


def products_of_matrices(u: Tensor) -> Tensor:
    """Begins with the identity matrix."""
    matrices = torch.tanh(u[..., :4]).reshape(*u.shape[:2], 2, 2)
    result: Tensor = scanned(lambda before, after: after @ before, matrices)
    return result.flatten(-2)


def complex_factors(u: Tensor) -> Tensor:
    """LRU (Orvieto et al. 2023), with real and imaginary parts."""

    def combine(before: Any, after: Any) -> Any:
        (a, b, p, q), (c, d, r, s) = before, after
        return a * c - b * d, a * d + b * c, p * c - q * d + r, p * d + q * c + s

    real = torch.full_like(u[..., :3], 0.7)
    values = (real, -real, u[..., :3], u[..., 3:])
    return torch.cat(scanned(combine, values)[2:], -1)


def softmax_so_far(u: Tensor) -> Tensor:
    """A mean with weights exp(u), that does not overflow."""

    def combine(before: Any, after: Any) -> Any:
        m = torch.maximum(before["m"], after["m"])
        old, new = torch.exp(before["m"] - m), torch.exp(after["m"] - m)
        return {
            "m": m,
            "s": before["s"] * old + after["s"] * new,
            "v": before["v"] * old + after["v"] * new,
        }

    sums = scanned(combine, {"m": 9 * u, "s": torch.ones_like(u), "v": u.flip(-1)})
    result: Tensor = sums["v"] / sums["s"]
    return result


def begun_again(u: Tensor) -> Tensor:
    """Sums that begin again where a number is large."""

    def combine(before: Any, after: Any) -> Any:
        (a, reset), (b, again) = before, after
        return torch.where(again, b, a + b), reset | again

    result: Tensor = scanned(combine, (u, u > 0.8))[0]
    return result


def first_of_all(u: Tensor) -> Tensor:
    """Nothing leaves a step as it is: all steps give the first one."""
    result: Tensor = u + scanned(lambda before, _: before * 1, u)
    return result


def over_features(u: Tensor) -> Tensor:
    """The axis has a fixed size, and nothing is carried."""
    result: Tensor = associative_scan(torch.add, u, dim=2, combine_mode="generic")
    return result


FORMS: Final[dict[Callable[[Tensor], Tensor], int]] = {
    largest: 1,
    products_of_matrices: 1,
    complex_factors: 2,
    softmax_so_far: 3,
    begun_again: 1,
    first_of_all: 2,
    over_features: 0,
}


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(form, marks=pytest.mark.thorough if form is complex_factors else ())
        for form in FORMS
    ],
)
def test_a_scan_streams(run: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    result = export(Network(run).eval(), {"x": X}, tmp_path / "m.onnx")

    assert result.contract.streaming.ok
    assert len(result.contract.states) == FORMS[run]
    check_chunks(result.path)


def test_the_mode_for_cuda_is_refused(tmp_path: Path) -> None:
    def pointwise(u: Tensor) -> Tensor:
        result: Tensor = associative_scan(torch.add, u, dim=1, combine_mode="pointwise")
        return result

    with pytest.raises(ExportError, match=r"with combine_mode='pointwise'.*runs on CUDA alone"):
        export(Network(pointwise).eval(), {"x": X}, tmp_path / "m.onnx")


def test_one_step_alone_is_the_first_one(tmp_path: Path) -> None:
    network = Network(largest).eval()
    x = torch.rand(2, 1, 6)

    result = export(network, {"x": X}, tmp_path / "m.onnx")

    (output,) = stateport.load(result.path).run({"x": x.numpy()})[0].values()
    torch.testing.assert_close(torch.from_numpy(output), network(x).detach())
