"""Arguments that are wrong in ways of their own: each is refused in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stateport
from stateport import (
    EngineUnavailable,
    InputError,
    Model,
    Pool,
    StateportError,
)
from tests.cutting import write_sums

Build = Callable[..., Path]
ONES = np.ones((1, 1, 2), np.float32)

#: No sizes, numbers or names.
WRONG = [-1, 0, True, 1.0, math.nan, math.inf, "1", b"1", None, [1], (1,), {}, ..., 1j]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("sums") / "sums.onnx")


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return stateport.load(path)


# Numbers of streams, and streams.


@pytest.mark.parametrize("capacity", [*WRONG, 2**63, 2**64, 10**400])
def test_what_is_no_capacity_is_refused(model: Model, capacity: Any) -> None:
    if capacity == 10**400:
        capacity = 10**40
    with pytest.raises(InputError, match="the largest number of streams was expected"):
        model.pool(capacity)


@pytest.mark.parametrize("count", [wrong for wrong in WRONG if wrong is not None])
def test_what_is_no_number_of_streams_is_refused(model: Model, count: Any) -> None:
    pool = model.pool(4)
    with pytest.raises(InputError, match="a number of streams was expected"):
        pool.open(count)
    assert len(pool) == 0


def test_more_streams_than_there_is_memory_for_are_refused(model: Model) -> None:
    pool = model.pool(2**63 - 1)
    assert pool.capacity == 2**63 - 1
    pool.step([pool.open()], ONES)
    for many in (2**33, 2**62):
        with pytest.raises(InputError, match=r"would make|no memory"):
            pool.open(many)
    np.testing.assert_array_equal(pool.step([0], ONES), 3 * ONES)


def test_a_batch_that_there_is_no_memory_for_is_refused(model: Model) -> None:
    x = np.broadcast_to(np.float32(1), (2**45, 1, 2))
    stream = model.stream()
    for call in (lambda: model(x), lambda: stream(x)):
        with pytest.raises(StateportError, match="no memory"):
            call()
    stream(ONES)


@pytest.mark.parametrize("capacity", range(1, 6))
def test_a_number_that_is_no_open_stream_is_refused(model: Model, capacity: int) -> None:
    """Just closed, never opened, the number of a free row, and any other number."""
    pool, opened = model.pool(capacity), set[int]()
    random = np.random.default_rng(capacity)
    for _ in range(4):
        if len(pool) < capacity:
            opened |= set(pool.open(int(random.integers(1, capacity + 1 - len(pool)))).tolist())
        for stream in random.permutation(pool.streams)[: random.integers(len(pool) + 1)].tolist():
            pool.close(stream)
            refuse(pool, stream)
        numbers = {*range(-capacity - 3, 3 * capacity + 9), *opened, 2**31, 2**62, -(2**63)}
        for number in numbers - set(pool.streams.tolist()):
            refuse(pool, number)


def refuse(pool: Pool, stream: int) -> None:
    for call in (
        lambda: pool.step([stream], ONES),
        lambda: pool.step(np.array([stream]), [ONES[0]]),
        lambda: pool.close(stream),
        lambda: pool.close([stream]),
        lambda: pool[stream],
    ):
        with pytest.raises(InputError, match=f"There is no open stream {stream} in this pool"):
            call()
    assert stream not in pool


@pytest.mark.parametrize(
    "streams",
    [
        *(wrong for wrong in WRONG if wrong not in (-1, 0, [1], (1,)) or wrong is True),
        [[0], [1, 0]],
        [[0]],
        [True],
        [0.0],
        [None],
        [2**64],
        [0, "1"],
        {0},
        range(0),
        np.ma.masked_array([0], [True]),
        np.array([0.0]),
        np.array([0], object),
        np.array(["0"]),
        np.array([], np.int64),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_are_no_streams_is_refused(model: Model, streams: Any) -> None:
    pool = model.pool(2)
    pool.open(2)
    for call in (lambda: pool.step(streams, ONES), lambda: pool.close(streams)):
        with pytest.raises(InputError, match="integers that open"):
            call()
    with pytest.raises(InputError, match=r"an integer that open\(\) returned|no open stream"):
        pool[streams]
    assert streams not in pool if not isinstance(streams, np.ndarray) else True
    assert len(pool) == 2


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", "u8", ">i8", ">i2"])
def test_integers_of_any_size_name_streams(model: Model, dtype: str) -> None:
    pool = model.pool(3)
    pool.open(3)
    pool.step(np.array([2, 0], dtype), np.concatenate([ONES, ONES]))
    assert pool[np.array([2], dtype)[0]].state["h0"][0, 0, 0] == 1
    if dtype == "u8":
        with pytest.raises(InputError, match=f"no open stream {2**63 + 1} "):
            pool.step(np.array([2**63 + 1], dtype), ONES)


def test_a_pool_whose_numbers_are_used_up_says_so(model: Model) -> None:
    pool = model.pool(1)
    pool.close(pool.open())
    pool._roster._next[:] = 2**63 - 4  # of a row that was given very often
    last = pool.open()
    np.testing.assert_array_equal(pool.step([last], ONES), 2 * ONES)
    pool.close(last)
    with pytest.raises(InputError, match="as many streams as it has numbers for"):
        pool.open()
    assert len(pool) == 0


# Loading.


@pytest.mark.parametrize("threads", [*(w for w in WRONG if w is not None), 1025, 2**31, 2**64])
def test_what_is_no_number_of_threads_is_refused(path: Path, threads: Any) -> None:
    for engine in ("ort-cpu", "openvino", "tract", "onnx-reference"):
        with pytest.raises(InputError, match=r"threads is .*from 1 to 1024"):
            stateport.load(path, engine=engine, threads=threads)


@pytest.mark.parametrize("engine", ["", 3, True, [], {}, ..., b"ort-cpu", "ort-cpu\0", "é" * 999])
def test_what_is_no_engine_is_refused(path: Path, engine: Any) -> None:
    with pytest.raises((EngineUnavailable, InputError), match="engine"):
        stateport.load(path, engine=engine)


@pytest.mark.parametrize("wrong", [None, 3, True, [], {}, ..., b"m.onnx", 1.5, ONES])
def test_what_is_no_path_is_refused(path: Path, wrong: Any) -> None:
    with pytest.raises(InputError, match="The path is a"):
        stateport.load(wrong)
    if wrong is not None:
        with pytest.raises(InputError, match="The path is a"):
            stateport.load(path, plan=wrong)


@pytest.mark.parametrize(
    "states", [[], 3, "h0", [("h0", "hn")], {1: "hn"}, {"h0": 2}, {"h0": None}]
)
def test_what_are_no_pairs_of_states_is_refused(path: Path, states: Any) -> None:
    with pytest.raises(InputError, match=r"states is .*a dict was expected"):
        stateport.load(path, states=states)


@pytest.mark.parametrize("precision", [[], {}, 3, None, True, "half"])
def test_what_is_no_precision_is_refused(path: Path, precision: Any) -> None:
    with pytest.raises(InputError, match=r"precision is .*'float32' or 'bfloat16'"):
        stateport.load(path, engine="openvino", precision=precision)
