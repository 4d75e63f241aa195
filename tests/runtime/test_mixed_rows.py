"""Rows of a batch that see each other, although most data does not show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import stateport
from stateport import StreamingError


@pytest.mark.parametrize("axis", [0, 1], ids=["over the batch", "over the features"])
def test_a_maximum_that_only_counts_where_it_is_large(tmp_path: Path, axis: int) -> None:
    """y = h + x / max(largest |x|, 10): over the batch, a loud row changes the others."""
    nodes = [
        helper.make_node("Abs", ["x"], ["size"]),
        helper.make_node("ReduceMax", ["size"], ["largest"], axes=[axis], keepdims=1),
        helper.make_node("Max", ["largest", "ten"], ["divisor"]),
        helper.make_node("Div", ["x", "divisor"], ["scaled"]),
        helper.make_node("Add", ["h", "scaled"], ["hn"]),
        helper.make_node("Identity", ["hn"], ["y"]),
    ]
    shape: list[str | int | None] = ["batch", 4]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "h")]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("y", "hn")]
    ten = numpy_helper.from_array(np.array([[10.0]], "f4"), "ten")
    graph = helper.make_graph(nodes, "graph", inputs, outputs, [ten])
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "m.onnx")

    model = stateport.load(tmp_path / "m.onnx", states={"h": "hn"})
    if axis == 0:
        with pytest.raises(StreamingError, match="depend on the other rows"):
            model.pool(2)
    else:
        assert len(model.pool(2).open(2)) == 2
