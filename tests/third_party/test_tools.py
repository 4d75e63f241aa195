"""Files of ours that went through other packages' tools: the contract survives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport import ContractError
from stateport.parity.vectors import vectors_path
from stateport_exporter import Spec, export


class Tagger(nn.Module):
    """An LSTM and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 48, batch_first=True)
        self.head = nn.Linear(48, 24)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.lstm(x)[0])
        return y


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("ours") / "m.onnx"
    return export(Tagger().eval(), (Spec("float32", "batch", "time", 12),), path).path


def slimmed(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    slim: onnx.ModelProto = onnxslim.slim(model)
    return slim


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    simple: onnx.ModelProto
    simple, is_right = onnxsim.simplify(model)
    assert is_right
    return simple


def in_float16(model: onnx.ModelProto, *, keep_io_types: bool = True) -> onnx.ModelProto:
    from onnxconverter_common import float16

    half: onnx.ModelProto = float16.convert_float_to_float16(model, keep_io_types=keep_io_types)
    return half


def written(ours: Path, path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, path)
    vectors_path(path).write_bytes(vectors_path(ours).read_bytes())
    return path


@pytest.mark.parametrize("tool", [slimmed, simplified])
def test_the_contract_survives_and_the_file_verifies(
    ours: Path, tmp_path: Path, tool: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> None:
    path = written(ours, tmp_path / "t.onnx", tool(onnx.load(ours)))
    assert stateport.load(path).contract == stateport.load(ours).contract
    assert stateport.verify(path).passed


def test_a_file_in_float16_is_judged_by_decibels(ours: Path, tmp_path: Path) -> None:
    path = written(ours, tmp_path / "h.onnx", in_float16(onnx.load(ours)))
    verdict = stateport.verify(path)
    assert not verdict.passed
    assert "are float16, 16 bits wide" in str(verdict.remarks)
    assert stateport.verify(path, snr=50).passed


def test_inputs_in_float16_are_not_those_of_the_contract(ours: Path, tmp_path: Path) -> None:
    model = in_float16(onnx.load(ours), keep_io_types=False)
    path = written(ours, tmp_path / "h.onnx", model)
    with pytest.raises(ContractError, match="but the graph has c0: float16"):
        stateport.verify(path)
