"""Calls that are cut off, at every line and every instruction in turn.

Such a call has been done in whole or not at all, and whatever comes next works.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count

import numpy as np
import pytest
from numpy.typing import NDArray

import stateport
from stateport import ArraySpec, Model, Pool, State, StateError, Stream
from tests.cutting import SUMS, cut, length, total, write_sums

Array = NDArray[np.float32]

grains = pytest.mark.parametrize(
    "instructions", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["line", "opcode"]
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return stateport.load(write_sums(tmp_path_factory.mktemp("sums") / "sums.onnx"))


@pytest.fixture(scope="module")
def unbound(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same, where the size of the output is not known before a call."""
    output = ArraySpec("y", "float32", ("batch", "steps", 2))
    path = tmp_path_factory.mktemp("sums") / "unbound.onnx"
    return stateport.load(write_sums(path, replace(SUMS, outputs=(output,))))


@cache
def chunk(rows: int, time: int = 1, seed: int = 0) -> Array:
    whole = np.random.default_rng(seed).integers(-9, 9, (rows, time, 2))
    return whole.astype(np.float32)


def state(rows: int, value: float) -> State:
    h = np.full((1, rows, 2), value, np.float32)
    return State({"h0": h, "c0": 2 * h[0]})


def every_cut(begin: Callable[[], Callable[[], object]], *, instructions: bool) -> Iterator[None]:
    """Cuts a call off at each of its lines in turn; `begin` makes all again, and gives the call."""
    number = 0
    for number in count():
        if not cut(begin(), number, instructions=instructions):
            break
        yield
    assert number > 5


# Pools.


@dataclass
class Case:
    """A pool before an action, and what is to be expected of its streams."""

    pool: Pool
    streams: list[int]
    before: dict[int, Array]


def prepared(model: Model) -> Case:
    """Three open streams in the rows 0, 1 and 3, which have made steps; row 2 is free."""
    pool = model.pool(8)
    pool.step(pool.open(4), chunk(4))
    pool.close(2)
    streams = pool.streams.tolist()
    return Case(pool, streams, totals(pool))


def totals(pool: Pool) -> dict[int, Array]:
    return {stream: total(pool[stream].state)[0] for stream in pool.streams.tolist()}


def step_all(case: Case) -> object:
    return case.pool.step(case.pool.streams, chunk(3, 2, 1))


def step_some(case: Case) -> object:
    return case.pool.step(case.streams[::-2], chunk(2, 2, 1))


def step_again(case: Case) -> object:
    return case.pool.step(np.array(case.streams)[[2, 0]], chunk(2, 1, 1))


def step_lengths(case: Case) -> object:
    return case.pool.step(case.streams, [chunk(1, 1 + i % 2, i)[0] for i in range(3)])


def step_list(case: Case) -> object:
    return case.pool.step(case.streams[1:], [chunk(1, 2, i)[0] for i in range(2)])


def open_one(case: Case) -> object:
    return case.pool.open()


def open_many(case: Case) -> object:
    return case.pool.open(5)


def close_some(case: Case) -> object:
    case.pool.close(case.streams[:2])
    return None


def write(case: Case) -> object:
    case.pool[case.streams[1]].state = state(1, 7)
    return None


def read(case: Case) -> object:
    return case.pool[case.streams[1]].state


#: Those that take longest have lines alone in `make pattern-tests`.
ACTIONS = [step_all, step_some, open_one, open_many, close_some, write, read]
LONG = [
    pytest.param(action, marks=pytest.mark.soak) for action in (step_again, step_lengths, step_list)
]


@grains
@pytest.mark.parametrize("action", [*ACTIONS, *LONG])
def test_a_pool_after_a_call_that_was_cut_off(
    model: Model, action: Callable[[Case], object], instructions: bool
) -> None:
    whole = prepared(model)
    action(whole)
    after = totals(whole.pool)
    case = prepared(model)

    def begin() -> Callable[[], object]:
        nonlocal case
        case = prepared(model)
        return lambda: action(case)

    for _ in every_cut(begin, instructions=instructions):
        now = totals(case.pool)
        assert same(now, case.before) or same(now, after)
        check_pool(case.pool, now)


def same(one: dict[int, Array], other: dict[int, Array]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[s], other[s]) for s in one)


def check_pool(pool: Pool, sums: dict[int, Array]) -> None:
    """Everything that a pool can do, in another thread as well."""
    assert len(pool) == len(sums)
    for streams in (pool.streams, pool.streams[::-1][:2]):
        x = chunk(len(streams), 1, 5)
        y = pool.step(streams, x)
        for number, stream in enumerate(streams.tolist()):
            sums[stream] = sums[stream] + x[number, 0]
            assert np.array_equal(y[number, 0], x[number, 0] + sums[stream])
    assert same(totals(pool), sums)
    pool.close(pool.streams[:2])
    assert set(pool.open(2).tolist()).isdisjoint(sums)


@grains
def test_two_calls_of_a_pool_cut_off_one_after_the_other(model: Model, instructions: bool) -> None:
    actions = (step_some, step_lengths)
    sizes = [length(partial(a, prepared(model)), instructions=instructions) for a in actions]
    random = np.random.default_rng(0)
    for _ in range(1000 if instructions else 30):
        case = prepared(model)
        for action, size in zip(actions, sizes, strict=True):
            cut(partial(action, case), int(random.integers(size)), instructions=instructions)
        check_pool(case.pool, totals(case.pool))


# Streams.


def first(stream: Stream) -> object:
    stream.reset()
    return stream(chunk(2, 1, 3))


def same_again(stream: Stream) -> object:
    return stream(chunk(2, 1, 3))


def another_length(stream: Stream) -> object:
    return stream(chunk(2, 3, 3))


def by_name(stream: Stream) -> object:
    return stream.run({"x": chunk(2, 1, 3)})


def restore(stream: Stream) -> object:
    stream.restore(state(2, 5))
    return None


def restore_another_batch(stream: Stream) -> object:
    stream.restore(state(3, 5))
    return None


def reset(stream: Stream) -> object:
    stream.reset()
    return None


@grains
@pytest.mark.parametrize("bound", [True, False], ids=["bound", "unbound"])
@pytest.mark.parametrize(
    "action",
    [first, same_again, another_length, by_name, restore, restore_another_batch, reset],
)
def test_a_stream_after_a_call_that_was_cut_off(
    model: Model,
    unbound: Model,
    action: Callable[[Stream], object],
    bound: bool,
    instructions: bool,
) -> None:
    chosen = model if bound else unbound
    stream = chosen.stream()

    def begin() -> Callable[[], object]:
        nonlocal stream
        stream = chosen.stream()
        for seed in range(2):
            stream(chunk(2, 1, seed))
        return lambda: action(stream)

    begin()
    before = kept(stream)
    action(stream)
    allowed = [before, kept(stream)]
    if action is first:  # it is two calls
        allowed.append(None)
    for _ in every_cut(begin, instructions=instructions):
        now = kept(stream)
        assert any(equal(now, each) for each in allowed)
        check_stream(stream, now)


def kept(stream: Stream) -> Array | None:
    """The sums of a stream that has begun."""
    with suppress(StateError):
        return total(stream.state)
    return None


def equal(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def check_stream(stream: Stream, sums: Array | None) -> None:
    """A stream goes on; one that has not begun takes any batch size."""
    sums = np.zeros((4, 2), np.float32) if sums is None else sums
    x = chunk(len(sums), 1, 5)
    sums = sums + x[:, 0]
    assert np.array_equal(stream(x)[:, 0], x[:, 0] + sums)
    assert np.array_equal(total(stream.state), sums)


@grains
def test_a_stream_that_has_never_begun_takes_another_batch(
    model: Model, instructions: bool
) -> None:
    stream = model.stream()

    def begin() -> Callable[[], object]:
        nonlocal stream
        stream = model.stream()
        return lambda: stream(chunk(2))

    for _ in every_cut(begin, instructions=instructions):
        check_stream(stream, kept(stream))


@grains
def test_another_thread_goes_on_after_a_call_that_was_cut_off(
    model: Model, instructions: bool
) -> None:
    stream, pool = model.stream(), model.pool(1)
    stream(chunk(1))
    pool.open()
    answers: list[object] = []

    def use() -> None:
        answers.append((stream(chunk(1)), pool.step([0], chunk(1))))

    def both() -> None:
        stream(chunk(1))
        pool.step([0], chunk(1))

    number = 0
    for number, _ in enumerate(every_cut(lambda: both, instructions=instructions), 1):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert len(answers) == number
    assert number > 50
