# SPDX-License-Identifier: Apache-2.0
"""Tensors on the wire: every dtype goes there and back, and nothing is cast."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stateport.serve import ServeError, Status
from stateport.serve.wire.datatypes import DTYPES, array_from_bytes, bytes_of, datatype_of
from stateport.serve.wire.json_tensors import array_from_json, json_of
from stateport.serve.wire.parameters import read_parameters

any_array = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: arrays.arrays(DTYPES[name], arrays.array_shapes(min_dims=0, max_side=4))
)


@given(any_array)
def test_bytes_there_and_back(array: np.ndarray[Any, Any]) -> None:
    name = datatype_of(array.dtype.name)
    back = array_from_bytes("x", name, list(array.shape), bytes_of(array))
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


@given(any_array)
def test_json_there_and_back(array: np.ndarray[Any, Any]) -> None:
    text = orjson.dumps(json_of(array), option=orjson.OPT_SERIALIZE_NUMPY)
    back = array_from_json(
        "x", datatype_of(array.dtype.name), list(array.shape), orjson.loads(text)
    )
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert np.array_equal(back, array, equal_nan=array.dtype.kind == "f")


def test_data_at_an_odd_address_are_copied_to_an_even_one() -> None:
    data = memoryview(b"?" + np.arange(3, dtype=np.float64).tobytes())[1:]
    array = array_from_bytes("x", "FP64", [3], data)
    assert array.flags.aligned
    assert array.tolist() == [0, 1, 2]


def test_nested_lists_have_the_shape() -> None:
    assert array_from_json("x", "INT8", [2, 1, 2], [[[1, 2]], [[3, 4]]]).shape == (2, 1, 2)


def test_what_json_has_no_word_for_travels_as_a_text() -> None:
    array = np.array([np.nan, np.inf, -np.inf, 0.1], np.float32)
    assert json_of(array)[:3] == ["NaN", "Infinity", "-Infinity"]
    back = array_from_json("x", "FP32", [3], ["NaN", "Infinity", "-Infinity"])
    assert math.isnan(back[0])
    assert back[1:].tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "words"),
    [
        ("FP32", [1], [1e39], "1e+39"),
        ("FP16", [1], [70000], "70000"),
        ("FP32", [1], [10**400], "an integer of"),
        ("FP32", [1], [True], "True"),
        ("FP32", [1], ["1"], "'1'"),
        ("FP32", [1], [None], "None"),
        ("INT8", [1], [128], "128"),
        ("INT32", [1], [1.0], "1.0"),
        ("INT64", [1], [True], "True"),
        ("UINT8", [1], [-1], "-1"),
        ("UINT64", [1], [2**64], "18446744073709551616"),
        ("BOOL", [1], [1], "1"),
        ("FP32", [2], [1], "1 values"),
        ("FP32", [1], 1, "a list of values"),
        ("FP32", [1], None, "a list of values"),
        ("FP32", [2, 2], [[1, 2], [3]], "nested lists"),
        ("FP32", [2, 2], [[1, 2], 3], "nested lists"),
        ("FP32", [2, 2], [[1, 2, 3, 4]], "nested lists"),
        ("FP32", [2], [[1], [2]], "takes whole|takes numbers"),
        ("FP32", [-1], [1], "the shape"),
        ("FP32", [True], [1], "the shape"),
        ("FP32", "3", [1], "the shape"),
        ("FP32", [1 << 40, 1 << 40], [1], "the shape"),
        ("FP32", [1] * 33, [1], "the shape"),
        ("BF16", [1], [1], "bfloat16"),
        ("BYTES", [1], ["a"], "strings"),
        ("FP8", [1], [1], "one of BOOL"),
        (3, [1], [1], "one of BOOL"),
    ],
)
def test_a_wrong_tensor_is_refused(datatype: Any, shape: Any, data: Any, words: str) -> None:
    with pytest.raises(ServeError, match=None) as caught:
        array_from_json("x", datatype, shape, data)
    assert caught.value.status is Status.INVALID
    assert any(word in str(caught.value) for word in words.split("|"))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "words"),
    [
        ("FP32", [2], b"1234", "4 bytes of data; FP32 of the shape [2] takes 8"),
        ("BOOL", [2], b"\0\2", "neither 0 nor 1"),
        ("FP32", [0, -1], b"", "the shape"),
    ],
)
def test_wrong_bytes_are_refused(datatype: str, shape: Any, data: bytes, words: str) -> None:
    with pytest.raises(ServeError) as caught:
        array_from_bytes("x", datatype, shape, data)
    assert words in str(caught.value)


def test_the_place_in_a_stream() -> None:
    assert read_parameters({}) == (None, False, False, None)
    assert read_parameters({"sequence_id": 2**64 - 1, "sequence_start": True}) == (
        2**64 - 1, True, False, None,
    )  # fmt: skip
    assert read_parameters({"sequence_id": "é", "sequence_end": True, "sequence_step": 3}) == (
        "é", False, True, 3,
    )  # fmt: skip
    assert read_parameters({"sequence_id": 0}).sequence is None
    assert read_parameters({"sequence_id": ""}).sequence is None


@pytest.mark.parametrize(
    "parameters",
    [
        {"sequence_id": -1},
        {"sequence_id": 2**64},
        {"sequence_id": True},
        {"sequence_id": 1.0},
        {"sequence_id": [1]},
        {"sequence_id": "\ud800"},
        {"sequence_start": 1},
        {"sequence_end": "true"},
        {"sequence_start": None},
        {"sequence_step": 0},
        {"sequence_step": True},
        {"sequence_step": "1"},
        {"sequence_step": 2**63},
    ],
)
def test_a_wrong_place_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ServeError) as caught:
        read_parameters(parameters)
    assert caught.value.status is Status.INVALID
