"""Signals at random moments, many thousands of them. Run by `make soak`."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from numpy.typing import NDArray

import stateport
from stateport import InputError, Model, Pool, State, StateError, Stream
from tests.cutting import total, write_sums

Array = NDArray[np.float32]

#: So many calls of each kind are cut off by each exception: 20,000 in all.
MANY = 5_000
#: The longest wait for a signal, in seconds: some hundred calls.
LONGEST = 4e-4
OPEN = 24
RANDOM = random.Random(0)  # noqa: S311


class Cut(Exception):  # noqa: N818  # it is no error
    """What the handler of the signal raises."""


class Clock:
    """Cuts calls off by signals, at random moments; what is not a call is left in peace."""

    def __init__(self, error: type[BaseException]) -> None:
        self.inside = False
        self._error = error

    def handle(self, _: int, __: FrameType | None) -> None:
        if self.inside:
            self.inside = False
            raise self._error
        self.wind()

    def wind(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, RANDOM.uniform(1e-6, LONGEST))

    def cuts(self, call: Callable[[], object]) -> bool:
        """Makes a call; whether it was cut off."""
        try:
            self.inside = True
            call()
            self.inside = False
        except self._error:
            return True
        finally:
            self.inside = False
        return False


@pytest.fixture(params=[KeyboardInterrupt, Cut], ids=["ctrl-c", "exception"])
def clock(request: pytest.FixtureRequest) -> Iterator[Clock]:
    RANDOM.seed(0)
    clock = Clock(request.param)
    before = signal.signal(signal.SIGALRM, clock.handle)
    yield clock
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return stateport.load(write_sums(tmp_path / "sums.onnx"))


def chunk(rows: int, time: int = 1) -> Array:
    whole = np.random.default_rng(RANDOM.getrandbits(32)).integers(-9, 9, (rows, time, 2))
    return whole.astype(np.float32)


def some_state(rows: int) -> State:
    h = chunk(rows)[None, :, 0]
    return State({"h0": h, "c0": 2 * h[0]})


class StreamCalls:
    """A stream, and what its sums should be."""

    def __init__(self, model: Model) -> None:
        self._stream = model.stream()
        self._sums: Array | None = None

    def call(self, cuts: Callable[[Callable[[], object]], bool]) -> bool:
        """Makes any of a stream's calls; whether it was cut off, after which all is checked."""
        rows = RANDOM.randint(1, 3) if self._sums is None else len(self._sums)
        before = np.zeros((rows, 2), np.float32) if self._sums is None else self._sums
        kind = RANDOM.choices(["step", "run", "restore", "reset", "state"], [40, 10, 3, 3, 5])[0]
        x = chunk(rows, RANDOM.choices([1, 2, 3], [8, 1, 1])[0])
        state = some_state(RANDOM.choice([rows, 4]))
        action, after = {
            "step": (lambda: self._stream(x), before + x.sum(1)),
            "run": (lambda: self._stream.run({"x": x}), before + x.sum(1)),
            "restore": (lambda: self._stream.restore(state), total(state)),
            "reset": (self._stream.reset, None),
            "state": (lambda: self._stream.state if self._sums is not None else 0, self._sums),
        }[kind]
        if cuts(action):
            now = kept(self._stream)
            assert same(now, self._sums) or same(now, after)
            self._sums = now
            return True
        self._sums = after
        return False

    def check(self) -> None:
        assert same(kept(self._stream), self._sums)


def kept(stream: Stream) -> Array | None:
    try:
        return total(stream.state)
    except StateError:
        return None


def same(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


class PoolCalls:
    """A pool, and what the sums of its streams should be."""

    def __init__(self, model: Model) -> None:
        self._pool = model.pool(OPEN)
        self._sums: dict[int, Array] = {}

    def call(self, cuts: Callable[[Callable[[], object]], bool]) -> bool:
        """Makes any of a pool's calls; whether it was cut off, after which all is checked."""
        action, after = self._any()
        if not cuts(action):
            if after is None:  # which streams were opened, only the pool knows
                after = sums(self._pool)
            self._sums = after
            return False
        now = sums(self._pool)
        assert alike(now, self._sums) or after is None or alike(now, after)
        if after is None:
            assert all(np.array_equal(now[s], a) for s, a in self._sums.items())
            assert not any(array.any() for s, array in now.items() if s not in self._sums)
        self._sums = now
        return True

    def check(self) -> None:
        assert alike(sums(self._pool), self._sums)

    def _any(self) -> tuple[Callable[[], object], dict[int, Array] | None]:
        """A call, and the sums after it; None for those of streams that are opened."""
        pool, now = self._pool, self._sums
        kind = RANDOM.choices(
            ["some", "all", "list", "open", "close", "write"], [9, 6, 6, 3, 3, 3]
        )[0]
        if kind == "open" or not now:
            count = RANDOM.randint(1, OPEN - len(now)) if len(now) < OPEN else 0
            return (lambda: pool.open(count) if count else None), None
        chosen = RANDOM.sample(sorted(now), RANDOM.randint(1, len(now)))
        if kind == "close":
            rest = {stream: array for stream, array in now.items() if stream not in chosen}
            return (lambda: pool.close(chosen)), rest
        if kind == "write":
            state = some_state(1)
            return (lambda: write(pool, chosen[0], state)), {**now, chosen[0]: total(state)[0]}
        if kind == "list":
            parts = [chunk(1, RANDOM.randint(1, 3))[0] for _ in chosen]
            after = {s: now[s] + x.sum(0) for s, x in zip(chosen, parts, strict=True)}
            return (lambda: pool.step(chosen, parts)), {**now, **after}
        streams = pool.streams if kind == "all" else np.array(chosen)
        x = chunk(len(streams), RANDOM.choice([1, 2]))
        after = {s: now[s] + x[i].sum(0) for i, s in enumerate(streams.tolist())}
        return (lambda: pool.step(streams, x)), {**now, **after}


def write(pool: Pool, stream: int, state: State) -> None:
    pool[stream].state = state


def sums(pool: Pool) -> dict[int, Array]:
    assert len(pool) == len(pool.streams)
    return {stream: total(pool[stream].state)[0] for stream in pool.streams.tolist()}


def alike(one: dict[int, Array], other: dict[int, Array]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[s], other[s]) for s in one)


@pytest.mark.parametrize("calls", [StreamCalls, PoolCalls])
def test_calls_that_signals_cut_off(
    model: Model,
    clock: Clock,
    calls: type[StreamCalls] | type[PoolCalls],
) -> None:
    """Each has been done in whole or not at all, whatever is called next works."""
    cut_off = made = 0
    subject = calls(model)
    while cut_off < MANY:
        clock.wind()
        while not subject.call(clock.cuts):
            made += 1
        cut_off += 1
        subject.check()
    with pytest.raises(InputError):
        model.stream()(np.zeros(3))
