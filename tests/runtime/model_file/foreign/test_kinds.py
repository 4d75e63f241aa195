"""Inputs and outputs that are no arrays of numbers or truth values."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, TypeProto, helper

import stateport
from stateport import ContractError

ARRAY = helper.make_tensor_type_proto(TensorProto.FLOAT, ["time", "batch", 3])
KINDS = {
    "string": (helper.make_tensor_type_proto(TensorProto.STRING, ["batch"]), "Cut the graph"),
    "complex64": (
        helper.make_tensor_type_proto(TensorProto.COMPLEX64, ["batch"]),
        "Make it an array of bool",
    ),
    "int4": (
        helper.make_tensor_type_proto(TensorProto.INT4, ["batch"]),
        "Make it an array of bool",
    ),
    "sequence": (helper.make_sequence_type_proto(ARRAY), "Stack the arrays"),
    "optional": (helper.make_optional_type_proto(ARRAY), "always there"),
    "map": (helper.make_map_type_proto(TensorProto.INT64, ARRAY), "Give its values"),
    "sparse tensor": (
        helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, ["batch"]),
        "Make it an array of bool",
    ),
}


def file_of(path: Path, inputs: dict[str, TypeProto], outputs: dict[str, TypeProto]) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "graph",
        [helper.make_value_info(name, kind) for name, kind in inputs.items()],
        [helper.make_value_info(name, kind) for name, kind in outputs.items()],
    )
    onnx.save(helper.make_model(graph), path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_refused_by_its_name_and_kind(tmp_path: Path, kind: str) -> None:
    declared, advice = KINDS[kind]
    taken = file_of(tmp_path / "in.onnx", {"x": ARRAY, "extra": declared}, {"y": ARRAY})
    with pytest.raises(ContractError, match=rf"takes 'extra' as {kind}; .*{advice}"):
        stateport.load(taken, states={})

    given = file_of(tmp_path / "out.onnx", {"x": ARRAY}, {"y": ARRAY, "extra": declared})
    with pytest.raises(ContractError, match=rf"gives 'extra' as {kind}; .*{advice}"):
        stateport.load(given, states={})
