"""Arrays, states and constants that are not what they should be: refused, everywhere alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import stateport
from stateport import (
    ArraySpec,
    Contract,
    InputError,
    Model,
    State,
    StateError,
    StateSpec,
)
from tests.cutting import write_sums

Build = Callable[..., Path]
ONES = np.ones((1, 1, 2), np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("sums") / "sums.onnx")


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return stateport.load(path)


class Metres(np.ndarray[Any, Any]):
    """An array that means more than its numbers."""


#: Arrays that the model does not take, and the error messages.
STRANGE: dict[str, tuple[Any, str]] = {
    "masked": (np.ma.masked_array(ONES, ONES > 0), "MaskedArray.*filled"),
    "masked nowhere": (np.ma.masked_array(ONES), "MaskedArray"),
    "masked scalar": (np.ma.masked, "MaskedConstant"),
    "subclass": (ONES.view(Metres), r"Metres.*numpy\.asarray"),
    "big-endian": (ONES.astype(">f4"), ">f4"),
    "objects": (ONES.astype(object), "object"),
    "text": (ONES.astype(str), "U32"),
    "dates": (ONES.astype("M8[s]"), "datetime64"),
    "double": (ONES.astype("f8"), "float64"),
    "complex": (ONES.astype("c8"), "complex64"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_array_is_refused_wherever_it_comes_in(model: Model, kind: str) -> None:
    x, says = STRANGE[kind]
    stream, pool = model.stream(), model.pool(2)
    streams = pool.open(2)
    stream(ONES)
    part = x[0] if x.ndim else x
    for call in (
        lambda: model(x),
        lambda: model.run({"x": x}),
        lambda: model.stream()(x),
        lambda: stream(x),
        lambda: stream.run({"x": x}),
        lambda: pool.step(streams[:1], x),
        lambda: pool.step(streams[:1], {"x": x}),
        lambda: pool.step(streams[:1], [part]),
        lambda: pool.step(streams, [ONES[0], part]),
        lambda: pool.step(streams, [part, ONES[0]]),
        lambda: pool.step(streams, (part, np.ones((3, 2), np.float32))),
    ):
        with pytest.raises(InputError, match=f"'x' is .*{says}"):
            call()
    np.testing.assert_array_equal(pool.step(streams, [ONES[0], ONES[0]])[1], 2 * ONES[0])
    np.testing.assert_array_equal(stream(ONES), 3 * ONES)


def test_a_matrix_is_refused_also_where_two_dimensions_are_wanted(build: Build) -> None:
    spec = ("float32", ("batch", 2))
    contract = Contract(
        (ArraySpec("x", *spec),), (ArraySpec("y", *spec),), (StateSpec("h0", "hn", *spec),)
    )
    nodes = [
        helper.make_node("Add", ["x", "h0"], ["hn"]),
        helper.make_node("Identity", ["hn"], ["y"]),
    ]
    model = stateport.load(build(contract, nodes))
    pool = model.pool(1)
    pool.open()
    with pytest.warns(PendingDeprecationWarning):
        x = np.matrix(np.ones((1, 2), np.float32))
    for call in (
        lambda: model(x),
        lambda: model.stream()(x),
        lambda: pool.step([0], x),
        lambda: pool.step([0], [x]),
        lambda: State({"h0": x}),
    ):
        with pytest.raises(InputError, match=r"is a (numpy.)?matrix; a plain NumPy array"):
            call()


def test_an_array_that_lies_in_a_file_is_taken(model: Model, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ONES)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert type(x) is np.memmap
    stream, pool = model.stream(), model.pool(1)
    pool.open()
    for _ in range(2):
        stream(x)
        pool.step([0], x)
        pool.step([0], [x[0]])
    np.testing.assert_array_equal(stream(x), 4 * ONES)
    np.testing.assert_array_equal(pool.step([0], x), 6 * ONES)


@pytest.mark.parametrize(
    "inputs", [None, [], [ONES], ONES, "x", 3, {1: ONES}, {"x": ONES, 3: ONES}]
)
def test_inputs_that_are_no_arrays_by_name_are_refused(model: Model, inputs: Any) -> None:
    stream = model.stream()
    for call in (model.run, stream.run):
        with pytest.raises(InputError, match=r"dict of arrays by name|no input [13]"):
            call(inputs)


# States and constants.


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (None, "is made of a NoneType; a dict"),
        ([], "is made of a list; a dict"),
        ([("h0", ONES)], "is made of a list; a dict"),
        (ONES, "is made of a numpy.ndarray; a dict"),
        ("h0", "is made of a str; a dict"),
        (3, "is made of a int; a dict"),
        ({1: ONES}, "named 1"),
        ({None: ONES}, "named None"),
        ({"": ONES}, "named ''"),
        ({"h0": [1.0]}, "'h0' is a list"),
        ({"h0": np.ma.masked_array(ONES, ONES > 0)}, "'h0' is a .*MaskedArray; a plain"),
        ({"h0": ONES.view(Metres)}, "'h0' is a .*Metres; a plain"),
        ({"h0": ONES.astype(">f4")}, "'h0' is an array of >f4.*byte order"),
        ({"h0": ONES.astype(object)}, "'h0' is an array of object"),
        ({"h0": ONES.astype("M8[s]")}, "'h0' is an array of datetime64"),
        ({"h0": np.broadcast_to(np.float32(0), (2**50,))}, "no memory"),
    ],
)
def test_what_makes_no_state_is_refused(arrays: Any, says: str) -> None:
    with pytest.raises(StateError, match=says):
        State(arrays)


@pytest.mark.parametrize("state", [{}, [], 3, "h0", ONES, {"h0": ONES}])
def test_what_is_no_state_is_refused(model: Model, state: Any) -> None:
    pool, stream = model.pool(1), model.stream()
    pool.open()

    def assign() -> None:
        pool[0].state = state

    for call in (lambda: model(ONES, state), lambda: stream.restore(state), assign):
        with pytest.raises(StateError, match=r"a stateport\.State was expected"):
            call()


@pytest.mark.parametrize(
    "value",
    [
        [[1], [1, 2]],
        [[[1, 2]], 3],
        None,
        "1",
        "one",
        [],
        {},
        ...,
        10**400,
        2**70,
        math.nan,
        math.inf,
        0.5,
        True,
        1j,
        np.ma.masked_array([1], [True]),
        np.datetime64("2026-01-01"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_constant_that_is_no_integer_is_refused(build: Build, value: object) -> None:
    path = build_with_rate(build)
    with pytest.raises(InputError, match="The constant 'rate'"):
        stateport.load(path, constants={"rate": value})


def test_a_constant_that_is_an_integer_is_taken(build: Build) -> None:
    path, x = build_with_rate(build), np.ones((1, 2), np.float32)
    for value in (3, 3.0, np.int8(3), np.array(3), np.float16(3)):
        y, _ = stateport.load(path, constants={"rate": value})(x)
        np.testing.assert_array_equal(y, 3 * x)
    for constants in (3, "rate", [("rate", 3)], [3]):
        with pytest.raises(InputError, match=r"The constants are a .*; a dict"):
            stateport.load(path, constants=constants)  # type: ignore[arg-type]


def build_with_rate(build: Build) -> Path:
    x, y = (ArraySpec(name, "float32", ("batch", 2)) for name in "xy")
    nodes = [
        helper.make_node("Cast", ["rate"], ["factor"], to=1),
        helper.make_node("Mul", ["x", "factor"], ["y"]),
    ]
    return build(Contract((x, ArraySpec("rate", "int64", ())), (y,)), nodes)
