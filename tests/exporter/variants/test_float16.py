"""Networks in float16, verified on the CPU, which computes them in float32 between casts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport.contract import PRECISION_KEY
from stateport.model_file.onnx_outline import read
from stateport_exporter import ExportError, ExportResult, Spec, export
from stateport_exporter.variants.float16 import to_float16
from tests.exporter.stacks import KINDS, X


def half(kind: str, path: Path, **options: Any) -> ExportResult:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return export(KINDS[kind](), (X,), path, dtype="float16", **options)


@pytest.mark.patterns
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_within_its_budget(tmp_path: Path, kind: str) -> None:
    result = half(kind, tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed
    assert result.report.bound == "50 dB"
    assert result.report.steps >= 2048
    file = read(result.path)
    assert file.metadata[PRECISION_KEY] == "float16"
    assert not {w.name for w in file.weights if w.dtype == "float32"}
    specs = (*result.contract.inputs, *result.contract.outputs, *result.contract.state_inputs)
    assert {spec.dtype for spec in specs} == {"float16"}
    model = stateport.load(result.path)
    assert model.contract == result.contract
    y = model.stream()(np.ones((2, 3, 12), np.float16))
    assert y.dtype == np.float16


@pytest.mark.patterns
@pytest.mark.parametrize("kinds", [("states",), ("inputs", "outputs"), ("inputs", "states")])
def test_what_stays_float32(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    contract = half("LSTM", tmp_path / "m.onnx", keep_float32=kinds).contract
    found = {
        "inputs": {spec.dtype for spec in contract.inputs},
        "outputs": {spec.dtype for spec in contract.outputs},
        "states": {spec.dtype for spec in (*contract.state_inputs, *contract.state_outputs)},
    }
    for kind, dtypes in found.items():
        assert dtypes == {"float32" if kind in kinds else "float16"}, kind


class Odd(nn.Module):
    """Integers in, a first state that is learned, a mask, and operators without a float16 form."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 6)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.first = nn.Parameter(torch.full((1, 1, 8), 0.25))
        with torch.no_grad():
            self.table.weight *= scale

    def forward(self, tokens: Tensor) -> Tensor:
        first = self.first.expand(1, tokens.size(0), 8).contiguous()
        y, _ = self.lstm(self.table(tokens), (first, first))
        wide = nn.functional.interpolate(y, scale_factor=2.0)  # Resize's scales are float32
        masked = torch.where(wide > 0.9, -1e9, wide)
        result: Tensor = masked.clamp(min=-1) + torch.arange(16.0) / 16  # Range has no float16
        return result


ODD = (Spec("int64", "batch", "time", high=8),)


def test_operators_that_give_float32_by_default() -> None:
    """Their attributes are left out, and say float32 so."""
    model = ir.from_onnx_text(
        """
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[n] x, int64[1] size, int64 length) => (float[n] y) {
            zeros = ConstantOfShape(size)
            window = HannWindow(length)
            filled = Add(x, zeros)
            y = Mul(filled, window)
        }
        """
    )
    to_float16(model, set())
    file = ir.to_proto(model)
    onnx.checker.check_model(file, full_check=True)
    assert file.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16


@pytest.mark.patterns
@pytest.mark.parametrize("kinds", [(), ("states", "outputs")])
def test_operators_without_a_float16_form_stay_in_float32(
    tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    result = export(Odd(), ODD, tmp_path / "m.onnx", dtype="float16", keep_float32=kinds)
    assert result.report is not None
    assert result.report.passed
    assert {state.initial for state in result.contract.states} == {"file"}
    dtype = "float32" if kinds else "float16"
    assert {state.dtype for state in result.contract.states} == {dtype}
    state = stateport.load(result.path)(np.zeros((2, 1), np.int64))[1]
    assert {array.dtype for array in state.values()} == {np.dtype(dtype)}


def test_weights_beyond_the_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'table.weight' reach .*, and float16 ends at 65504"):
        export(Odd(1e6), ODD, tmp_path / "m.onnx", dtype="float16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dtype": "float64"}, "dtype is 'float64'; 'float32' or 'float16' was expected"),
        ({"keep_float32": ["states"]}, "keep_float32 applies only with dtype='float16'"),
        (
            {"dtype": "float16", "keep_float32": ["weights"]},
            "keep_float32 names 'weights'; it takes any of inputs, outputs, states",
        ),
    ],
)
def test_misuse_is_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ExportError, match=says):
        export(KINDS["RNN"](), (X,), tmp_path / "m.onnx", **options)
