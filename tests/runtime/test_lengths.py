"""Lengths of rows: what a contract says of them, and that one that does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

import stateport
from stateport import ArraySpec, Contract, InputError
from stateport.errors import ContractError

Build = Callable[..., Path]

X = ArraySpec("x", "float32", ("time", "batch"))
Y = ArraySpec("y", "int32", ("batch",))
CONTRACT = Contract((X, ArraySpec("lengths", "int32", ("batch",), lengths_of="time")), (Y,))


@pytest.fixture
def model(build: Build) -> stateport.Model:
    """A file that only gives back the lengths."""
    return stateport.load(build(CONTRACT, [helper.make_node("Identity", ["lengths"], ["y"])]))


def inputs(*lengths: int) -> dict[str, NDArray[Any]]:
    return {"x": np.zeros((4, len(lengths)), np.float32), "lengths": np.array(lengths, np.int32)}


def test_lengths_within_the_data_are_taken_as_they_are(model: stateport.Model) -> None:
    for lengths in ([4, 1, 3], [1], [4, 4]):
        outputs, _ = model.run(inputs(*lengths))
        np.testing.assert_array_equal(outputs["y"], lengths)


@pytest.mark.parametrize("wrong", [0, -1, 5, 2**31 - 1, -(2**31)])
def test_a_length_that_does_not_fit_is_refused(model: stateport.Model, wrong: int) -> None:
    message = rf"'lengths' holds the length {wrong}; .* 1 to 4 long.* axis 'time'"
    with pytest.raises(InputError, match=message):
        model.run(inputs(4, wrong, 1))
    with pytest.raises(InputError, match=message):
        model.stream().run(inputs(4, wrong, 1))


def test_a_stream_checks_every_chunk(model: stateport.Model) -> None:
    stream = model.stream()
    stream.run(inputs(4, 1))
    with pytest.raises(InputError, match="length 0"):
        stream.run(inputs(4, 0))


def test_only_lengths_say_in_json_what_they_are() -> None:
    text = CONTRACT.to_json()
    assert Contract.from_json(text) == CONTRACT
    x, lengths = json.loads(text)["inputs"]
    assert x == {"name": "x", "dtype": "float32", "shape": ["time", "batch"]}
    assert lengths["lengths_of"] == "time"


@pytest.mark.parametrize(
    ("dtype", "axis"), [("float32", "time"), ("bool", "time"), ("int64", "steps")]
)
def test_lengths_are_integers_along_an_axis(dtype: str, axis: str) -> None:
    with pytest.raises(ContractError, match=f"lengths of rows along '{axis}'"):
        Contract((X, ArraySpec("lengths", dtype, ("batch",), lengths_of=axis)), (Y,))


def test_an_output_holds_no_lengths() -> None:
    with pytest.raises(ContractError, match="that must be an input of integers"):
        Contract((X,), (ArraySpec("y", "int64", ("batch",), lengths_of="time"),))


def test_lengths_of_must_be_a_name() -> None:
    text = CONTRACT.to_json().replace('"lengths_of": "time"', '"lengths_of": 3')
    with pytest.raises(ContractError, match="'lengths_of' must be a name"):
        Contract.from_json(text)
