"""The third witness: the equations in NumPy against PyTorch and ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stateport
from models.equations import Cell
from models.lstm import ReferenceLSTM


def cell_of(module: ReferenceLSTM) -> Cell:
    lstm = module.lstm
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return Cell.from_pytorch(*(getattr(lstm, name).detach().numpy() for name in names))


def sequence(batch: int, time: int) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(batch * 1000 + time)
    shapes = (batch, time, 5), (1, batch, 10), (1, batch, 10)
    x, h0, c0 = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return x, h0, c0


@pytest.mark.parametrize(("batch", "time"), [(1, 1), (2, 7), (5, 513)])
def test_the_equations_agree_with_pytorch_in_float64(batch: int, time: int) -> None:
    module = ReferenceLSTM()
    x, h0, c0 = (a.astype(np.float64) for a in sequence(batch, time))
    y, h, c = cell_of(module).run(x, h0[0], c0[0])
    with torch.no_grad():
        expected = module.double()(*(torch.from_numpy(a) for a in (x, h0, c0)))
    for mine, theirs in zip((y, h[None], c[None]), expected, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("batch", "time"), [(1, 1), (2, 7), (5, 513)])
def test_the_equations_agree_with_the_exported_file(batch: int, time: int, reference: Path) -> None:
    x, h0, c0 = sequence(batch, time)
    y, h, c = cell_of(ReferenceLSTM()).run(x, h0[0], c0[0])
    found, state = stateport.load(reference)(x, stateport.State({"h0": h0, "c0": c0}))
    np.testing.assert_allclose(found, y, rtol=0, atol=5e-7)
    np.testing.assert_allclose(state["h0"][0], h, rtol=0, atol=5e-7)
    np.testing.assert_allclose(state["c0"][0], c, rtol=0, atol=5e-7)


def test_the_equations_can_disagree() -> None:
    module = ReferenceLSTM()
    x, h0, c0 = sequence(2, 7)
    before, _, _ = cell_of(module).run(x, h0[0], c0[0])
    with torch.no_grad():
        module.state_dict()["lstm.weight_hh_l0"][0, 0] += 1e-3
    after, _, _ = cell_of(module).run(x, h0[0], c0[0])
    assert np.abs(before - after).max() > 1e-6
