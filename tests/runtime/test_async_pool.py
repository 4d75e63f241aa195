# SPDX-License-Identifier: Apache-2.0
"""The pool for coroutines: each stream gives what a stream of its own gives, whoever else steps."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

import stateport
from stateport import AsyncPool, EngineError, InputError, Model, StateError, StateportError
from stateport.engines import HostEngine
from stateport.rounds import LostStepError, Rounds, _rows

T = TypeVar("T")

#: In batches of other sizes ONNX Runtime sums in another order.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def model(reference: Path) -> Model:
    return stateport.load(reference)


def chunk(time: int = 1, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((time, 5), np.float32)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


class Gate(HostEngine):
    """An engine that adds the input to the state, and waits at a gate before each call."""

    name = "gate"
    version = "1"

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.open = threading.Event()
        self.entered = threading.Event()
        self.calls = 0

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        self.calls += 1
        self.entered.set()
        assert self.open.wait(60)
        results: list[NDArray[Any]] = self._engine.run(inputs, outputs)
        return results


@pytest.fixture
def gate(model: Model) -> Gate:
    return Gate(model._engine)


@pytest.fixture
def gated(model: Model, gate: Gate) -> Model:
    gated = Model(model.contract, gate)
    gate.open.set()
    assert gated._mixed_rows is None  # which calls the engine
    gate.open.clear()
    gate.entered.clear()
    gate.calls = 0
    return gated


async def entered(gate: Gate) -> None:
    """Waits until the engine has begun a call."""
    await asyncio.to_thread(gate.entered.wait, 60)
    gate.entered.clear()


@pytest.mark.parametrize("count", [1, 2, 33])
def test_each_stream_equals_a_stream_of_its_own(model: Model, count: int) -> None:
    async def feed(pool: AsyncPool, number: int) -> None:
        own, stream = model.stream(), await pool.open()
        lengths = np.random.default_rng(number).integers(1, 4, size=8)
        for step, length in enumerate(lengths):
            x = chunk(int(length), 100 * number + step)
            y = await pool.step(stream, x)
            np.testing.assert_allclose(y, own(x[None])[0], rtol=0, atol=CLOSE)
        await pool.close(stream)

    async def main() -> None:
        async with AsyncPool(model, count) as pool:
            await asyncio.gather(*[feed(pool, number) for number in range(count)])
            assert len(pool) == 0

    run(main())


def test_steps_of_one_turn_are_one_call(gated: Model, gate: Gate) -> None:
    async def main() -> None:
        gate.open.set()
        async with AsyncPool(gated, 8) as pool:
            streams = [await pool.open() for _ in range(8)]
            for _ in range(3):
                await asyncio.gather(*[pool.step(stream, chunk()) for stream in streams])
            assert gate.calls == 3

    run(main())


def test_steps_that_come_while_the_engine_works_form_the_next_call(
    gated: Model, gate: Gate
) -> None:
    async def main() -> None:
        async with AsyncPool(gated, 5) as pool:
            streams = [await pool.open() for _ in range(5)]
            first = asyncio.create_task(pool.step(streams[0], chunk()))
            await entered(gate)
            others = [asyncio.create_task(pool.step(s, chunk())) for s in streams[1:]]
            await asyncio.sleep(0)
            assert pool.waiting == 4
            gate.open.set()
            await asyncio.gather(first, *others)
            assert gate.calls == 2

    run(main())


def test_steps_of_one_stream_keep_their_order(model: Model) -> None:
    async def main() -> list[Any]:
        async with AsyncPool(model, 1) as pool:
            stream = await pool.open()
            steps = [pool.step(stream, chunk(1 + seed % 2, seed)) for seed in range(10)]
            return await asyncio.gather(*steps)

    own = model.stream()
    for seed, y in enumerate(run(main())):
        np.testing.assert_array_equal(y, own(chunk(1 + seed % 2, seed)[None])[0])


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((1, 4), np.float32),
        np.zeros((1, 5)),
        np.zeros(5, np.float32),
        np.zeros((0, 5), np.float32),
        np.zeros((1, 1, 5), np.float32),
        [[0.0] * 5],
        None,
        {"x": np.zeros((1, 4), np.float32)},
        {"z": np.zeros((1, 5), np.float32)},
        {},
        np.ma.masked_array(np.zeros((1, 5), np.float32)),
    ],
    ids=str,
)
def test_what_is_no_chunk_is_refused_for_its_stream_alone(model: Model, x: Any) -> None:
    async def main() -> None:
        async with AsyncPool(model, 3) as pool:
            streams = [await pool.open() for _ in range(3)]
            before = await pool.state(streams[1])
            steps = [pool.step(s, v) for s, v in zip(streams, [chunk(), x, chunk()], strict=True)]
            first: Any
            first, refused, last = await asyncio.gather(*steps, return_exceptions=True)
            assert isinstance(refused, InputError)
            np.testing.assert_allclose(first, model.stream()(chunk()[None])[0], atol=CLOSE)
            np.testing.assert_array_equal(first, last)
            assert await pool.state(streams[1]) == before

    run(main())


def test_a_failure_of_the_engine_is_one_streams(counter: Path) -> None:
    async def main() -> None:
        async with AsyncPool(stateport.load(counter), 9) as pool:
            streams = [await pool.open() for _ in range(9)]
            for step in range(1, 4):
                xs = [np.array(7 if n == 4 else n % 3) for n in range(9)]
                steps = [pool.step(s, x) for s, x in zip(streams, xs, strict=True)]
                answers = await asyncio.gather(*steps, return_exceptions=True)
                for number, answer in enumerate(answers):
                    if number == 4:
                        assert isinstance(answer, EngineError)
                    else:
                        one = number % 3 + 1
                        np.testing.assert_array_equal(answer, [step * one, step * one * 10])
            np.testing.assert_array_equal(await pool.step(streams[4], np.array(0)), [1, 10])

    run(main())


def test_a_step_that_is_cancelled_while_it_waits_never_runs(gated: Model, gate: Gate) -> None:
    async def main() -> None:
        async with AsyncPool(gated, 2) as pool:
            a, b = await pool.open(), await pool.open()
            running = asyncio.create_task(pool.step(a, chunk()))
            await entered(gate)
            waiting = asyncio.create_task(pool.step(b, chunk()))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            gate.open.set()
            await running
            assert not (await pool.state(b))["h0"].any()

    run(main())


def test_a_step_that_is_cancelled_while_it_runs_is_finished(gated: Model, gate: Gate) -> None:
    async def main() -> None:
        async with AsyncPool(gated, 1) as pool:
            stream = await pool.open()
            running = asyncio.create_task(pool.step(stream, chunk()))
            await entered(gate)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            gate.open.set()
            state = await pool.state(stream)
            own = gated.stream()
            own(chunk()[None])
            assert state == own.state

    run(main())


def test_an_open_that_is_cancelled_leaves_no_stream(gated: Model, gate: Gate) -> None:
    async def main() -> None:
        async with AsyncPool(gated, 2) as pool:
            stream = await pool.open()
            running = asyncio.create_task(pool.step(stream, chunk()))
            await entered(gate)
            opening = asyncio.create_task(pool.open())
            await asyncio.sleep(0)
            opening.cancel()
            gate.open.set()
            await running
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert len(pool) == 1

    run(main())


def test_steps_that_wait_for_a_closed_stream_are_refused(gated: Model, gate: Gate) -> None:
    async def main() -> None:
        async with AsyncPool(gated, 1) as pool:
            stream = await pool.open()
            running = asyncio.create_task(pool.step(stream, chunk()))
            await entered(gate)
            waiting = asyncio.create_task(pool.step(stream, chunk()))
            closing = asyncio.create_task(pool.close(stream))
            await asyncio.sleep(0)
            gate.open.set()
            await running
            await closing
            with pytest.raises(InputError, match="no open stream"):
                await waiting
            with pytest.raises(InputError, match="no open stream"):
                await pool.close(stream)

    run(main())


def test_a_pool_that_ends_finishes_what_runs_and_refuses_what_waits(
    gated: Model, gate: Gate
) -> None:
    async def main() -> None:
        pool = AsyncPool(gated, 1)
        stream = await pool.open()
        running = asyncio.create_task(pool.step(stream, chunk()))
        await entered(gate)
        waiting = asyncio.create_task(pool.step(stream, chunk()))
        ending = asyncio.create_task(pool.aclose())
        await asyncio.sleep(0)
        gate.open.set()
        assert (await running).shape == (1, 10)
        await ending
        with pytest.raises(StateportError, match="is closed"):
            await waiting
        with pytest.raises(StateportError, match="is closed"):
            await pool.open()

    run(main())


def test_a_state_moves_from_pool_to_pool(model: Model) -> None:
    async def main() -> None:
        async with AsyncPool(model, 2) as pool, AsyncPool(model, 2) as other:
            stream = await pool.open()
            await pool.step(stream, chunk(3))
            state = await pool.state(stream)
            moved, replaced = await other.open(state), await other.open()
            await other.restore(replaced, state)
            expected = await pool.step(stream, chunk(2, 1))
            np.testing.assert_array_equal(await other.step(moved, chunk(2, 1)), expected)
            np.testing.assert_array_equal(await other.step(replaced, chunk(2, 1)), expected)

            with pytest.raises(StateError, match="c0"):
                await other.restore(moved, stateport.State({"h0": state["h0"]}))

    run(main())


def test_a_full_pool_refuses_to_open(model: Model) -> None:
    async def main() -> None:
        async with AsyncPool(model, 1) as pool:
            stream = await pool.open()
            with pytest.raises(InputError, match="holds 1"):
                await pool.open()
            await pool.close(stream)
            again = await pool.open()
            assert again != stream
            with pytest.raises(InputError, match="no open stream"):
                await pool.step(stream, chunk())

    run(main())


@pytest.mark.parametrize("stream", [-1, 7, True, "0", None, 0.0])
def test_what_is_no_stream_is_refused(model: Model, stream: Any) -> None:
    async def main() -> None:
        async with AsyncPool(model, 2) as pool:
            await pool.open()
            with pytest.raises(InputError):
                await pool.step(stream, chunk())
            with pytest.raises(InputError):
                await pool.state(stream)
            with pytest.raises(InputError):
                await pool.close(stream)

    run(main())


def test_a_pool_belongs_to_one_event_loop(model: Model) -> None:
    pool = AsyncPool(model, 2)
    run(pool.open())
    with pytest.raises(StateportError, match="another event loop"):
        run(pool.open())


def test_several_inputs_and_outputs_go_by_name(two: Path) -> None:
    async def main() -> None:
        async with AsyncPool(stateport.load(two), 3) as pool:
            streams = [await pool.open() for _ in range(3)]
            ones = np.ones(2, np.float32)
            steps = [pool.step(s, {"a": n * ones, "b": ones}) for n, s in enumerate(streams)]
            for number, answer in enumerate(await asyncio.gather(*steps)):
                np.testing.assert_array_equal(answer["sum"], [number + 1] * 2)
                np.testing.assert_array_equal(answer["difference"], [number - 1] * 2)
            with pytest.raises(InputError, match="by name"):
                await pool.step(streams[0], ones)

    run(main())


def test_states_come_with_the_answer(model: Model) -> None:
    async def main() -> None:
        rounds = Rounds(model, 3)
        streams = [await rounds.open() for _ in range(3)]
        own = model.stream()
        for count in (1, 3):
            steps = [rounds.step(s, {"x": chunk()[None]}, True) for s in streams[:count]]
            answers = [await step.answer for step in steps]
            assert [answer.batch for answer in answers] == [count] * count
            for stream, answer in zip(streams, answers, strict=False):
                assert answer.state == await rounds.state(stream)
        own(chunk()[None])
        assert answers[-1].state is not None
        np.testing.assert_allclose(answers[-1].state["h0"], own.state["h0"], atol=CLOSE)
        await rounds.stop()

    run(main())


def test_an_ended_pool_ends_its_thread(gated: Model, gate: Gate) -> None:
    async def main() -> None:
        gate.open.set()
        pool = AsyncPool(gated, 1)
        await pool.step(await pool.open(), chunk())
        thread = pool._rounds._thread
        assert thread is not None
        await pool.aclose()
        await asyncio.to_thread(thread.join, 60)
        assert not thread.is_alive()

    run(main())


def test_a_pool_cannot_be_copied(model: Model) -> None:
    pool = AsyncPool(model, 2)
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(StateportError, match="copied or pickled"):
            duplicate(pool)
    assert repr(pool) == "<stateport.AsyncPool of 0 streams, at most 2>"


def test_rows_are_split_only_as_they_are() -> None:
    batch, constant = np.arange(6).reshape(2, 3), np.arange(2)
    two, three = _rows([batch], [0], 2), _rows([batch], [1], 3)
    assert [row[0].shape for row in two] == [(1, 3)] * 2
    assert [row[0].tolist() for row in three] == [[[0], [3]], [[1], [4]], [[2], [5]]]
    assert _rows([], [], 2) == [[], []]

    first, second = _rows([constant], [None], 2)
    assert first[0] is not second[0]
    np.testing.assert_array_equal(first[0], second[0])
    for count in (1, 3):
        with pytest.raises(EngineError, match="rows along axis 0 were expected"):
            _rows([batch, constant], [0, None], count)


def test_a_step_whose_answer_is_lost_is_not_made_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with AsyncPool(model, 3) as pool:
            streams = [await pool.open() for _ in range(3)]
            own = model.stream()

            def fail(*arguments: object) -> Any:
                raise MemoryError("no more")

            async def step(number: int) -> Any:
                return await pool.step(streams[number], chunk())

            with monkeypatch.context() as patched:
                patched.setattr("stateport.rounds._rows", fail)
                answers = await asyncio.gather(
                    step(0), step(1), step(0), step(1), return_exceptions=True
                )
            assert all(isinstance(answer, LostStepError) for answer in answers)
            assert "no more" in str(answers[0])
            own(chunk()[None])
            for number in (0, 1):
                with pytest.raises(LostStepError, match="Close it"):
                    await step(number)
                state = await pool.state(streams[number])
                np.testing.assert_allclose(state["h0"], own.state["h0"], rtol=0, atol=CLOSE)
                await pool.close(streams[number])
            np.testing.assert_allclose(await step(2), model(chunk()[None])[0][0], atol=CLOSE)
            assert len(pool) == 1

    run(main())


@pytest.mark.parametrize(("streams", "in_thread"), [(1, False), (2, True)])
def test_a_call_of_half_a_millisecond_leaves_the_loop_to_other_streams(
    model: Model, monkeypatch: pytest.MonkeyPatch, streams: int, in_thread: bool
) -> None:
    """Alone, it runs in the event loop; beside others, in the thread, so that their steps join."""
    monkeypatch.setattr(Rounds, "_expected", lambda *_: 5e-4)
    threads = set()
    step_pool = Rounds._step_pool

    def noted(rounds: Rounds, *args: Any) -> Any:
        threads.add(threading.current_thread())
        return step_pool(rounds, *args)

    async def steps() -> None:
        async with AsyncPool(model, capacity=2) as pool:
            opened = [await pool.open() for _ in range(streams)]
            for stream in opened:
                await pool.step(stream, chunk())  # alone so far
            monkeypatch.setattr(Rounds, "_step_pool", noted)
            for stream in opened:
                await pool.step(stream, chunk())

    run(steps())
    assert threads.isdisjoint({threading.main_thread()}) is in_thread
