"""One owner: a stream or a pool that is in the middle of a call refuses another one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import stateport
from stateport import EngineError, Model, Pool, StateportError, Stream
from tests.cutting import cut, total, write_sums

Array = NDArray[np.float32]
ONES = np.ones((1, 1, 2), np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return stateport.load(write_sums(tmp_path / "sums.onnx"))


class Meanwhile:
    """Stands before an engine's calls: what is to be done in the middle of the next one."""

    def __init__(self, model: Model) -> None:
        self.action: Callable[[], object] | None = None
        bind = model._engine.bind

        def bind_with_hook(inputs: Any, outputs: Any) -> Callable[[], None]:
            call = bind(inputs, outputs)

            def bound() -> None:
                call()
                action, self.action = self.action, None
                if action is not None:
                    action()

            return bound

        model._engine.bind = bind_with_hook  # type: ignore[method-assign]


def open_pool(model: Model) -> Pool:
    pool = model.pool(2)
    pool.open()
    return pool


def calls_of_a_stream(stream: Stream) -> list[Callable[[], object]]:
    state = stateport.State({"h0": np.ones((1, 1, 2), "f4"), "c0": np.ones((1, 2), "f4")})
    return [
        lambda: stream(ONES),
        lambda: stream.run({"x": ONES}),
        lambda: stream.run({"x": np.concatenate([ONES, ONES], 1)}),
        lambda: stream.state,
        lambda: stream.restore(state),
        lambda: stream.reset(),
    ]


def calls_of_a_pool(pool: Pool) -> list[Callable[[], object]]:
    return [
        lambda: pool.step([0], ONES),
        lambda: pool.step([0], [ONES[0]]),
        lambda: pool.open(),
        lambda: pool.close(0),
        lambda: pool[0].state,
    ]


@pytest.mark.parametrize("thread", [True, False], ids=["thread", "beneath"])
@pytest.mark.parametrize("kind", ["stream", "pool"])
def test_a_call_beside_another_one_is_refused(model: Model, kind: str, thread: bool) -> None:
    meanwhile = Meanwhile(model)
    stream, pool = model.stream(), open_pool(model)
    stream(ONES)

    def step() -> Any:
        return stream(ONES) if kind == "stream" else pool.step([0], ONES)

    calls = calls_of_a_stream(stream) if kind == "stream" else calls_of_a_pool(pool)
    refused: list[str] = []

    def try_all() -> None:
        for call in calls:
            with pytest.raises(StateportError, match=f"this {kind} is running.*one owner") as error:
                call()
            refused.append(str(error.value))

    def try_all_in_a_thread() -> None:
        other = threading.Thread(target=try_all)
        other.start()
        other.join()

    meanwhile.action = try_all_in_a_thread if thread else try_all
    y = step()
    assert len(refused) == len(calls)
    sums = 2 * ONES if kind == "stream" else ONES
    np.testing.assert_array_equal(y, ONES + sums)
    np.testing.assert_array_equal(step(), ONES + sums + ONES)


def test_different_streams_run_at_the_same_time(model: Model) -> None:
    meanwhile = Meanwhile(model)
    one, other = model.stream(), model.stream()
    meanwhile.action = lambda: other(ONES)
    one(ONES)
    assert np.array_equal(total(one.state), total(other.state))


def test_a_call_that_another_thread_was_cut_off_in_does_not_count(model: Model) -> None:
    """Also where that thread has ended, or goes on with something else."""
    stream = model.stream()
    stream(ONES)
    end, done = threading.Event(), threading.Event()

    def cut_all() -> None:
        number = 0
        while cut(lambda: stream(ONES), number, instructions=True):
            number += 1
            if stream._owner.running is not None:
                break
        done.set()
        end.wait()

    thread = threading.Thread(target=cut_all)
    thread.start()
    done.wait()
    assert stream._owner.running is not None
    stream(ONES)
    assert stream._owner.running is None

    stream._owner.running = []  # as after a thread that has ended
    end.set()
    thread.join()
    stream(ONES)


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Sets what the handler of a signal does, and sends that signal with the next call made."""
    before = signal.getsignal(signal.SIGUSR1)

    def install(action: Callable[[], object]) -> None:
        def handler(_: int, __: FrameType | None) -> None:
            action()

        signal.signal(signal.SIGUSR1, handler)

    yield install
    signal.signal(signal.SIGUSR1, before)


def ring() -> None:
    signal.raise_signal(signal.SIGUSR1)


class LateError(Exception):
    """What a handler raises to end a call that takes too long."""


@pytest.mark.parametrize("error", [LateError, TimeoutError, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("engine", ["ort-cpu", "openvino", "tract", "onnx-reference"])
def test_what_a_handler_raises_passes_through_the_engine(
    tmp_path: Path,
    alarm: Callable[[Callable[[], object]], None],
    engine: str,
    error: type[BaseException],
) -> None:
    """It is the caller's error, and not the engine's; nothing has changed."""
    model = stateport.load(write_sums(tmp_path / "sums.onnx"), engine=engine)

    def fail() -> None:
        raise error("too late")

    alarm(fail)
    library = _library_call(model)
    stream, pool = model.stream(), open_pool(model)
    stream(ONES)
    calls: list[Callable[[], object]] = [
        lambda: model(ONES),
        lambda: model.stream()(ONES),
        lambda: pool.step([0], ONES),
        lambda: stream(np.concatenate([ONES, ONES], 1)),
    ]
    if engine == "openvino":  # the next run makes a request again, which asks the library
        drop_idle_requests(model)
    else:  # what a bound call of OpenVINO asks is another object
        calls.append(lambda: stream(ONES))
    library.ring = ring
    for call in calls:
        with pytest.raises(error, match="too late"):
            call()
    library.ring = None
    np.testing.assert_array_equal(stream(ONES), 3 * ONES)
    np.testing.assert_array_equal(pool.step([0], ONES), 2 * ONES)


def drop_idle_requests(model: Model) -> None:
    engine: Any = model._engine
    while not engine._idle.empty():
        engine._idle.get_nowait()


class _Ringing:
    """Something of an engine's library, all of whose methods ring first."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.ring: Callable[[], None] | None = None

    def __getattr__(self, name: str) -> Any:
        if self.ring is not None:
            self.ring()
        return getattr(self.inner, name)


def _library_call(model: Model) -> _Ringing:
    """Stands in for the library's object that an engine calls."""
    engine: Any = model._engine
    name = {
        "ort-cpu": "_session",
        "openvino": "_compiled",
        "tract": "_open_graph",
        "onnx-reference": "_evaluator",
    }[model.engine]
    ringing = _Ringing(getattr(engine, name))
    setattr(engine, name, ringing)
    return ringing


def test_an_error_of_the_engine_is_one_of_ours(model: Model) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    library = _library_call(model)
    library.ring = fail
    with pytest.raises(EngineError, match="ONNX Runtime failed: broken"):
        model(ONES)
