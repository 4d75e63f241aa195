# SPDX-License-Identifier: Apache-2.0
"""Loops as the operator Scan, on engines that read it in their own way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stateport.engines.choice import EngineChoice
from stateport.parity.matrix import run_matrix
from stateport_exporter import Spec, export


class FormerSlices(nn.Module):
    """Adds up what differs from the slice before, of any type."""

    def forward(self, x: Tensor) -> Tensor:
        previous, h, ys = torch.zeros_like(x[:, 0]), torch.zeros(x.shape[0], 3), []
        for t in range(x.shape[1]):
            h = 0.5 * h + (x[:, t] != previous).float() - 0.1 * previous.float()
            previous = x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        pytest.param("bool", marks=pytest.mark.patterns),
        pytest.param("uint8", marks=pytest.mark.thorough),
    ],
)
def test_a_state_that_is_the_former_slice_is_right_on_every_engine(
    dtype: str, tmp_path: Path
) -> None:
    spec = Spec(dtype, "batch", "time", 3)
    result = export(FormerSlices(), (spec,), tmp_path / "m.onnx")
    choices = [EngineChoice("ort-cpu"), EngineChoice("openvino")]
    matrix = run_matrix(tmp_path / "m.onnx", result.vectors, choices)
    assert {row.status for row in matrix.rows} == {"passed"}, matrix


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["int16", "int32", "int64"])
def test_such_a_state_of_other_integers(dtype: str, tmp_path: Path) -> None:
    test_a_state_that_is_the_former_slice_is_right_on_every_engine(dtype, tmp_path)
