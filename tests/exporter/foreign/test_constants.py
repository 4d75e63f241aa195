"""First states that are computed from constants alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

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

ROW = constant("row", array(1, 1, HIDDEN, seed=5))
TABLE = constant("table", array(3, 1, 1, HIDDEN, seed=6))
#: (1, batch, HIDDEN), of zeros.
ZEROS = [
    helper.make_node("Shape", ["x"], ["sizes"]),
    helper.make_node("Slice", ["sizes", "one", "two"], ["rows"]),
    helper.make_node("Concat", ["one", "rows", "four"], ["shape"], axis=0),
    helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
]
NUMBERS = [constant(name, [n], "int64") for name, n in (("one", 1), ("two", 2), ("four", HIDDEN))]
INDEX = constant("index", 2, "int64")
HALF = constant("half", 0.5)


@pytest.mark.parametrize(
    ("nodes", "tensors"),
    [
        ([helper.make_node("Add", ["zeros", "row"], ["first"])], [ROW]),
        (
            [
                helper.make_node("Tanh", ["row"], ["bounded"]),
                helper.make_node("Expand", ["bounded", "shape"], ["first"]),
            ],
            [ROW],
        ),
        (
            [
                helper.make_node("Gather", ["table", "index"], ["taken"], axis=0),
                helper.make_node("Expand", ["taken", "shape"], ["first"]),
            ],
            [TABLE, INDEX],
        ),
        ([helper.make_node("Add", ["zeros", "half"], ["first"])], [HALF]),
    ],
    ids=["zeros and a row", "a bounded row", "a row of a table", "a number"],
)
def test_it_is_lifted(tmp_path: Path, nodes: list[NodeProto], tensors: list[TensorProto]) -> None:
    gru = helper.make_node("GRU", ["x", "W", "R", "B", "", "first"], ["y"], hidden_size=HIDDEN)
    source = write(
        tmp_path / "m.onnx",
        [*ZEROS, *nodes, gru],
        [port("x", ["time", "batch", SIZE])],
        [port("y", ["time", 1, "batch", HIDDEN])],
        [*weights("GRU"), *NUMBERS, *tensors],
    )
    result = lift(source, tmp_path / "l.onnx")
    assert result.contract.states[0].initial == "file"
    x = array(6, 2, SIZE)
    np.testing.assert_allclose(
        in_chunks(result.path, x), answers(source, x=x)["y"], rtol=0, atol=2e-6
    )
