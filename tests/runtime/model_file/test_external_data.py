"""Weights beside a file: the place that the file names is compared with what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import stateport
from stateport import ArraySpec, Contract, FileError, StateSpec
from stateport.contract import INITIAL_PREFIX
from tests.runtime.conftest import Build

#: A running sum whose first state stands in the file.
SUM = Contract(
    inputs=(ArraySpec("x", "float32", ("batch", 2)),),
    outputs=(ArraySpec("y", "float32", ("batch", 2)),),
    states=(StateSpec("h0", "hn", "float32", ("batch", 2), "file"),),
)
FIRST = np.array([[7, 8]], np.float32)


def summing(build: Build, **place: str) -> Path:
    """A file whose first state lies in w.bin, where `place` says."""
    tensor = TensorProto(
        name=f"{INITIAL_PREFIX}h0",
        dims=[1, 2],
        data_type=TensorProto.FLOAT,
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in {"location": "w.bin", **place}.items():
        tensor.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("Add", ["x", "h0"], ["y"]),
        helper.make_node("Identity", ["y"], ["hn"]),
    ]
    path = build(SUM, nodes)
    (path.parent / "w.bin").write_bytes(bytes(8) + FIRST.tobytes())
    model = onnx.load(path)
    model.graph.initializer.append(tensor)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_first_state_lies_where_the_file_says(build: Build) -> None:
    model = stateport.load(summing(build, offset="8", length="8"))
    y, _ = model(np.ones((3, 2), np.float32))
    np.testing.assert_array_equal(y, np.broadcast_to(FIRST + 1, (3, 2)))


@pytest.mark.parametrize(
    "place",
    [
        {"offset": "abc"},
        {"offset": "-5"},
        {"offset": "9" * 40},
        {"offset": "\uff11"},  # a digit, in another script
        {"offset": "1_0"},
        {"offset": " 8"},
        {"offset": "0x8"},
        {"offset": ""},
        {"offset": "12"},
        {"offset": str(2**62)},
        {"length": str(2**62)},
        {"length": "7"},
        {"length": "-8"},
        {"length": "eight"},
    ],
)
def test_a_place_that_is_none_is_refused(build: Build, place: dict[str, str]) -> None:
    with pytest.raises(FileError):
        stateport.load(summing(build, **place)).stream()


def test_of_a_large_file_only_the_weight_is_read(build: Build) -> None:
    path = summing(build, offset=str(3 << 30), length="8")
    with (path.parent / "w.bin").open("r+b") as file:
        file.seek(3 << 30)
        file.write(FIRST.tobytes())  # the rest is a hole, and takes no room

    y, _ = stateport.load(path)(np.zeros((1, 2), np.float32))
    np.testing.assert_array_equal(y, FIRST)
