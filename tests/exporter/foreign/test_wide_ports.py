"""Inputs, outputs and states in dtypes that NumPy lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

import stateport
from stateport import ContractError, EngineError
from stateport_exporter import add_contract, lift
from tests.exporter.foreign.files import (
    HIDDEN,
    SIZE,
    answers,
    array,
    in_chunks,
    port,
    weights,
    write,
)

X, Y = ["time", "batch", SIZE], ["time", 1, "batch", HIDDEN]
STATE = [1, "batch", HIDDEN]
NARROW = {
    "bfloat16": TensorProto.BFLOAT16,
    "float8e4m3fn": TensorProto.FLOAT8E4M3FN,
    "float8e5m2": TensorProto.FLOAT8E5M2,
}


def cast(source: str, target: str, dtype: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], to=dtype)


def hidden_file(path: Path, dtype: int) -> Path:
    """A GRU in float32 between an input and an output in another dtype."""
    nodes = [
        cast("x", "wide", TensorProto.FLOAT),
        helper.make_node("GRU", ["wide", "W", "R", "B"], ["y0"], hidden_size=HIDDEN),
        cast("y0", "y", dtype),
    ]
    inputs, outputs = [port("x", X, dtype)], [port("y", Y, dtype)]
    return write(path, nodes, inputs, outputs, weights("GRU"), opset=21, ir_version=10)


def explicit_file(path: Path, dtype: int) -> Path:
    """A GRU in float32 whose state is kept in another dtype."""
    nodes = [
        cast("h", "wide", TensorProto.FLOAT),
        helper.make_node(
            "GRU", ["x", "W", "R", "B", "", "wide"], ["y", "last"], hidden_size=HIDDEN
        ),
        cast("last", "hn", dtype),
    ]
    inputs = [port("x", X), port("h", STATE, dtype)]
    outputs = [port("y", Y), port("hn", STATE, dtype)]
    return write(path, nodes, inputs, outputs, weights("GRU"), opset=21, ir_version=10)


def wide_file(path: Path) -> Path:
    """The same GRU in float32 alone."""
    node = helper.make_node("GRU", ["x", "W", "R", "B"], ["y"], hidden_size=HIDDEN)
    return write(path, [node], [port("x", X)], [port("y", Y)], weights("GRU"))


@pytest.mark.parametrize("dtype", NARROW)
def test_inputs_and_outputs_become_float32(tmp_path: Path, dtype: str) -> None:
    source = hidden_file(tmp_path / "m.onnx", NARROW[dtype])
    result = lift(source, tmp_path / "l.onnx")

    assert result.notes == (
        f"x is {dtype} in the source and float32 here",
        f"y is {dtype} in the source and float32 here",
    )
    assert [spec.dtype for spec in (*result.contract.inputs, *result.contract.outputs)] == [
        "float32",
        "float32",
    ]
    x = np.round(array(6, 2, SIZE))  # these values are the same in all dtypes
    wide = answers(wide_file(tmp_path / "w.onnx"), x=x)["y"]
    np.testing.assert_allclose(in_chunks(result.path, x), wide, rtol=0.14, atol=0.01)


def test_a_state_is_exactly_what_the_file_keeps(tmp_path: Path) -> None:
    source = explicit_file(tmp_path / "m.onnx", TensorProto.BFLOAT16)
    result = add_contract(source, tmp_path / "c.onnx", states={"h": "hn"})
    assert result.report.passed
    assert result.report.precision == "bfloat16"
    assert [str(state) for state in result.contract.states] == ["h -> hn: float32[1, batch, 4]"]

    model = stateport.load(result.path)
    _, state = model.run({"x": array(3, 2, SIZE)})
    values = state["h"]
    kept = values.view(np.uint32)
    assert not (kept & 0xFFFF).any()  # bfloat16 is the first half of float32
    assert values.any()


def test_loading_names_the_way(tmp_path: Path) -> None:
    source = hidden_file(tmp_path / "m.onnx", TensorProto.BFLOAT16)
    with pytest.raises(ContractError, match=r"takes 'x' as bfloat16; .* `stateport contract"):
        stateport.load(source, states={})


def test_a_layer_in_bfloat16_runs_nowhere(tmp_path: Path) -> None:
    tensors = []
    for tensor in weights("GRU"):
        values = onnx.numpy_helper.to_array(tensor)
        narrow = helper.make_tensor(
            tensor.name, TensorProto.BFLOAT16, values.shape, values.flatten().tolist()
        )
        tensors.append(narrow)
    node = helper.make_node("GRU", ["x", "W", "R", "B"], ["y"], hidden_size=HIDDEN)
    inputs, outputs = (
        [port("x", X, TensorProto.BFLOAT16)],
        [port("y", Y, TensorProto.BFLOAT16)],
    )
    source = write(tmp_path / "m.onnx", [node], inputs, outputs, tensors, opset=22, ir_version=10)
    with pytest.raises(EngineError, match=r"computes in bfloat16.*Write the file in float32"):
        lift(source, tmp_path / "l.onnx")
    assert not (tmp_path / "l.onnx").exists()
