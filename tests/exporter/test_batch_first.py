# SPDX-License-Identifier: Apache-2.0
"""Copies with the batch first: of states, of inputs that loops use, and of names that are taken."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport.deploy.triton.batch_first import check_same_streams, is_batch_first
from stateport_exporter import Spec, export
from stateport_exporter.batch_first import write_batch_first


class Looped(nn.Module):
    """A loop over time around a cell: time first, with the input used inside of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        for step in x:
            h = self.cell(step, h[0]).unsqueeze(0)
            outputs.append(h[0] + x.mean(dim=(0, 2)).unsqueeze(1) * 0)
        return torch.stack(outputs), h


@pytest.mark.parametrize(
    "module",
    [nn.LSTM(3, 4, 2), nn.GRU(3, 4, bidirectional=False), nn.RNN(3, 4, batch_first=True)],
    ids=["LSTM", "GRU", "RNN, batch first"],
)
def test_the_copy_gives_the_same_streams(module: nn.RNNBase, tmp_path: Path) -> None:
    state = Spec("float32", module.num_layers, "batch", 4)
    axes = ("batch", "time") if module.batch_first else ("time", "batch")
    states = (state, state) if isinstance(module, nn.LSTM) else state
    export(module, (Spec("float32", *axes, 3), states), tmp_path / "model.onnx")

    write_batch_first(tmp_path / "model.onnx", tmp_path / "copy.onnx")

    original, copy = (stateport.load(tmp_path / f"{name}.onnx") for name in ("model", "copy"))
    assert not is_batch_first(original.contract)
    assert is_batch_first(copy.contract)
    check_same_streams(original, copy)
    names = [spec.name for spec in original.contract.inputs]
    assert [spec.name for spec in copy.contract.inputs] == names
    onnx.checker.check_model(tmp_path / "copy.onnx", full_check=True)


def test_a_loop_that_uses_an_input_is_copied(tmp_path: Path) -> None:
    example = (Spec("float32", "time", "batch", 3), Spec("float32", 1, "batch", 4))
    export(Looped(), example, tmp_path / "model.onnx")
    write_batch_first(tmp_path / "model.onnx", tmp_path / "copy.onnx")
    original, copy = (stateport.load(tmp_path / f"{name}.onnx") for name in ("model", "copy"))
    assert [spec.shape[0] for spec in copy.contract.state_inputs] == ["batch"]
    check_same_streams(original, copy)


def test_a_name_that_is_taken_is_not_used_again(reference: Path, tmp_path: Path) -> None:
    write_batch_first(reference, tmp_path / "once.onnx")
    model = onnx.load(tmp_path / "once.onnx")
    names = [name for node in model.graph.node for name in node.output]
    assert len(names) == len({*names})
    assert "h0.as_exported" in names
