"""Small ONNX files made by hand, for what no exported network would hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from stateport import ArraySpec, Contract, StateSpec
from stateport.contract import CONTRACT_KEY

Build = Callable[..., Path]

#: A sum that goes on from call to call: hn = h0 + table[x], y = hn. Rows 0 to 2 of the table exist.
COUNTER = Contract(
    inputs=(ArraySpec("x", "int64", ("batch",)),),
    outputs=(ArraySpec("y", "float32", ("batch", 2)),),
    states=(StateSpec("h0", "hn", "float32", ("batch", 2)),),
)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Writes a graph with the inputs and outputs of `contract`, and `text` as its contract."""

    def make(
        contract: Contract,
        nodes: Iterable[onnx.NodeProto],
        *,
        initializers: Iterable[onnx.TensorProto] = (),
        text: str | None = None,
        name: str = "built.onnx",
    ) -> Path:
        graph = helper.make_graph(
            list(nodes),
            "built",
            [_value(spec) for spec in (*contract.inputs, *contract.state_inputs)],
            [_value(spec) for spec in (*contract.outputs, *contract.state_outputs)],
            list(initializers),
        )
        model = helper.make_model(
            graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)], producer_name="tests"
        )
        helper.set_model_props(model, {CONTRACT_KEY: contract.to_json() if text is None else text})
        onnx.checker.check_model(model, full_check=True)
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return make


@pytest.fixture
def counter(build: Build) -> Path:
    """A file of the `COUNTER` graph; an index that its table has not fails in the engine."""
    table = np.array([[1, 10], [2, 20], [3, 30]], np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["row"]),
        helper.make_node("Add", ["h0", "row"], ["hn"]),
        helper.make_node("Identity", ["hn"], ["y"]),
    ]
    return build(COUNTER, nodes, initializers=[onnx.numpy_helper.from_array(table, "table")])


@pytest.fixture
def two(build: Build) -> Path:
    """A file without state, with two inputs and two outputs: sum and difference."""
    spec = [ArraySpec(name, "float32", ("batch", 2)) for name in ("a", "b", "sum", "difference")]
    contract = Contract(inputs=tuple(spec[:2]), outputs=tuple(spec[2:]))
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
    ]
    return build(contract, nodes)


def _value(spec: ArraySpec) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, kind, spec.shape)
