# SPDX-License-Identifier: Apache-2.0
"""Files of another layout run in Triton as `stateport deploy triton` writes them.

Run by `make triton-check`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tritonclient.grpc
from numpy.typing import NDArray
from onnx import helper
from tritonclient.utils import np_to_triton_dtype

import stateport
from stateport.contract import CONTRACT_KEY
from tests.conftest import Exported

from .server import triton

Array = NDArray[Any]

#: A sum that goes on: one integer for each row goes in, and one comes out.
SUM = stateport.Contract(
    inputs=(stateport.ArraySpec("x", "int64", ("batch",)),),
    outputs=(stateport.ArraySpec("y", "int64", ("batch",)),),
    states=(stateport.StateSpec("h", "hn", "int64", ("batch",)),),
)


def test_time_first_and_one_number_for_each_row(exported: Exported, tmp_path: Path) -> None:
    time_first = exported(num_layers=2, batch_first=False)
    models = {"time_first": time_first, "sum": built(tmp_path / "sum.onnx")}
    stream = stateport.load(time_first).stream()
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)

    (tmp_path / "repository").mkdir()
    with (
        triton(tmp_path / "repository", models) as server,
        tritonclient.grpc.InferenceServerClient(server.grpc) as client,
    ):
        for index, chunk in enumerate(x):
            y = step(client, "time_first", chunk[None], index == 0)
            assert np.allclose(y[0], stream(chunk[:, None])[:, 0], rtol=0, atol=2e-6)

        sums = [step(client, "sum", np.array([[n]]), n == 1) for n in (1, 2, 3)]
        assert [each.tolist() for each in sums] == [[[1]], [[3]], [[6]]]


def step(client: Any, model: str, x: Array, is_first: bool) -> Array:
    given = tritonclient.grpc.InferInput("x", x.shape, np_to_triton_dtype(x.dtype))
    given.set_data_from_numpy(x)
    result = client.infer(model, [given], sequence_id=7, sequence_start=is_first)
    array: Array = result.as_numpy("y")
    return array


def built(path: Path) -> Path:
    integer = onnx.TensorProto.INT64
    values = {name: helper.make_tensor_value_info(name, integer, ["batch"]) for name in "xhy"}
    nodes = [
        helper.make_node("Add", ["x", "h"], ["hn"]),
        helper.make_node("Identity", ["hn"], ["y"]),
    ]
    following = helper.make_tensor_value_info("hn", integer, ["batch"])
    graph = helper.make_graph(nodes, "sum", [values["x"], values["h"]], [values["y"], following])
    model = helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)], producer_name="tests"
    )
    helper.set_model_props(model, {CONTRACT_KEY: SUM.to_json()})
    onnx.save(model, path)
    return path
