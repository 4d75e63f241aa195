"""Files in float16, wholly or inside: they are judged by float16's bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import stateport
from stateport.parity.engine_report import measure_model
from stateport.parity.vectors import Vectors, vectors_path
from stateport_exporter import lift
from tests.exporter.foreign.files import (
    HIDDEN,
    SIZE,
    answers,
    array,
    constant,
    in_chunks,
    port,
    weights,
    write,
)

X = ["time", "batch", SIZE]
Y = ["time", 1, "batch", HIDDEN]
HALF = TensorProto.FLOAT16


def check(source: Path, tmp_path: Path, dtype: str) -> stateport.Contract:
    result = lift(source, tmp_path / "l.onnx")
    contract = result.contract
    assert contract.streaming.ok, contract.streaming.reason
    assert result.report.passed

    model = stateport.load(result.path)
    assert model.precision == "float16"
    assert measure_model(model, Vectors.load(vectors_path(result.path))).passed

    x = array(8, 2, SIZE, dtype=dtype)
    got = in_chunks(result.path, x)
    assert got.dtype == dtype
    want = answers(source, x=x)["y"]
    np.testing.assert_allclose(got.astype("f4"), want.astype("f4"), rtol=0, atol=3e-3)
    return contract


@pytest.mark.parametrize("first", ["absent", "zeros", "constant"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_float16_layer_streams(tmp_path: Path, kind: str, first: str) -> None:
    tensors = weights(kind, dtype="float16")
    operands = ["x", "W", "R", "B"]
    if first != "absent":
        values = array(1, 1, HIDDEN, seed=6) if first == "constant" else np.zeros((1, 1, HIDDEN))
        tensors += [
            constant("row", values, "float16"),
            constant("axis", [1], "int64"),
            constant("ends", [1, HIDDEN], "int64"),
        ]
    nodes = []
    if first != "absent":
        nodes = [
            helper.make_node("Shape", ["x"], ["rows"], start=1, end=2),
            helper.make_node("Concat", ["one", "rows", "width"], ["shape"], axis=0),
            helper.make_node("Expand", ["row", "shape"], ["h"]),
        ]
        tensors += [constant("one", [1], "int64"), constant("width", [HIDDEN], "int64")]
        operands += ["", "h"]
    nodes.append(helper.make_node(kind, operands, ["y"], hidden_size=HIDDEN))
    source = write(tmp_path / "m.onnx", nodes, [port("x", X, HALF)], [port("y", Y, HALF)], tensors)
    contract = check(source, tmp_path, "float16")
    assert {state.dtype for state in contract.states} == {"float16"}


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_layer_between_casts_keeps_float16_states(tmp_path: Path, kind: str) -> None:
    nodes = [
        helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
        helper.make_node(kind, ["x16", "W", "R", "B"], ["y16"], hidden_size=HIDDEN),
        helper.make_node("Cast", ["x"], ["x16"], to=HALF),
    ]
    source = write(
        tmp_path / "m.onnx",
        nodes,
        [port("x", X)],
        [port("y", Y)],
        weights(kind, dtype="float16"),
    )
    contract = check(source, tmp_path, "float32")
    assert contract.inputs[0].dtype == "float32"
    assert {state.dtype for state in contract.states} == {"float16"}
