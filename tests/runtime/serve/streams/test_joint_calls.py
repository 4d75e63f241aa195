# SPDX-License-Identifier: Apache-2.0
"""Calls without a stream that run as one: each gets what it gets alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import stateport
from stateport import ArraySpec, Contract, EngineError, InputError, Model, State, StateportError
from stateport.engines import HostEngine
from stateport.serve.joint_calls import JointAnswer, JointCalls
from stateport.serve.request import Request
from tests.conftest import Exported
from tests.runtime.serve.streams.services import chunk, run, serving

#: In batches of other sizes ONNX Runtime sums in another order.
CLOSE = 1e-5


class Gate(HostEngine):
    """An engine that waits at a gate before each call, and notes the batch of each."""

    name = "gate"
    version = "1"

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[int] = []

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        self.batches.append(next(iter(inputs.values())).shape[0])
        self.entered.release()
        assert self.open.wait(60)
        results: list[NDArray[Any]] = self._engine.run(inputs, outputs)
        return results


@pytest.fixture
def model(reference: Path) -> Model:
    return stateport.load(reference)


@pytest.fixture
def gate(model: Model) -> Gate:
    return Gate(model._engine)


def gated(model: Model, gate: Gate) -> Model:
    """The model behind the gate, which has looked at its rows already."""
    was_open = gate.open.is_set()
    gate.open.set()
    gated = Model(model.contract, gate)
    assert gated._mixed_rows is None
    while gate.entered.acquire(blocking=False):
        pass
    gate.batches.clear()
    if not was_open:
        gate.open.clear()
    return gated


class Calls(JointCalls):
    """Calls with one thread of their own."""

    def __init__(self, model: Model, most_rows: int = 64) -> None:
        super().__init__(model, most_rows, ThreadPoolExecutor(1), 1)


def state_of(rows: int, seed: int) -> State:
    chance = np.random.default_rng(seed)
    shape = (1, rows, 10)
    return State({name: chance.standard_normal(shape, np.float32) for name in ("h0", "c0")})


def x_of(rows: int, time: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, time, 5), np.float32)


async def call(calls: JointCalls, rows: int = 1, time: int = 1, seed: int = 0) -> JointAnswer:
    return await calls.run({"x": x_of(rows, time, seed)}, state_of(rows, seed))


def close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=CLOSE)


def check(model: Model, answer: JointAnswer, rows: int, time: int, seed: int) -> None:
    y, after = model(x_of(rows, time, seed), state_of(rows, seed))
    close(answer.outputs["y"], y)
    for name, array in after.items():
        close(answer.state[name], array)


def test_calls_of_one_turn_are_joined_by_their_shapes(model: Model, gate: Gate) -> None:
    sizes = [(1, 1), (3, 1), (1, 2), (2, 1), (4, 2), (1, 1)]

    async def main() -> None:
        gate.open.set()
        calls = Calls(gated(model, gate))
        answers = await asyncio.gather(
            *[call(calls, rows, time, seed) for seed, (rows, time) in enumerate(sizes)]
        )
        for seed, (answer, (rows, time)) in enumerate(zip(answers, sizes, strict=True)):
            check(model, answer, rows, time, seed)
            assert answer.batch == (4 if time == 1 else 2)
        assert gate.batches == [7, 5]

    run(main())


def test_calls_that_come_while_the_engine_works_run_next(model: Model, gate: Gate) -> None:
    async def main() -> None:
        calls = Calls(gated(model, gate), most_rows=4)
        first = asyncio.create_task(call(calls))
        await asyncio.to_thread(gate.entered.acquire)
        later = [asyncio.create_task(call(calls, 1, 1, seed)) for seed in range(5)]
        wide = asyncio.create_task(call(calls, 9, 1, 9))
        gone = asyncio.create_task(call(calls, 1, 1, 6))
        await asyncio.sleep(0)
        gone.cancel()
        gate.open.set()

        for seed, answer in enumerate(await asyncio.gather(*later)):
            check(model, answer, 1, 1, seed)
        check(model, await wide, 9, 1, 9)
        await first
        assert gate.batches == [1, 4, 1, 9]  # at most 4 rows together, unless a call has more

    run(main())


def test_a_call_that_does_not_fit_or_fails_does_so_alone(counter: Path) -> None:
    model = stateport.load(counter)
    zeros = State({"h0": np.zeros((1, 2), np.float32)})

    async def main() -> None:
        calls = Calls(model)
        inputs = [np.array([index]) for index in (0, 1, 7, 2)]
        inputs.append(np.zeros((1, 1)))
        answers = await asyncio.gather(
            *[calls.run({"x": x}, zeros) for x in inputs], return_exceptions=True
        )
        for index in (0, 1, 3):
            answer = answers[index]
            assert isinstance(answer, JointAnswer)
            np.testing.assert_array_equal(answer.outputs["y"], model(inputs[index])[0])
        assert isinstance(answers[2], EngineError)
        assert isinstance(answers[4], InputError)

    run(main())


class Flat(HostEngine):
    """An engine that gives one row, whatever comes."""

    name = "flat"
    version = "1"

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        return [inputs["x"][:1]]


@pytest.mark.parametrize("shape", [("batch", 2), (1, 2), ("rows", 2)])
def test_calls_that_cannot_be_joined_run_alone(shape: tuple[Any, ...]) -> None:
    contract = Contract(
        inputs=(ArraySpec("x", "float32", shape),), outputs=(ArraySpec("y", "float32", shape),)
    )

    async def main() -> None:
        calls = Calls(Model(contract, Flat()))
        xs = [np.full((1, 2), number, np.float32) for number in range(3)]
        answers = await asyncio.gather(*[calls.run({"x": x}, State({})) for x in xs])
        for x, answer in zip(xs, answers, strict=True):
            np.testing.assert_array_equal(answer.outputs["y"], x)
            assert answer.batch == 1

    run(main())


def test_a_stop_refuses_what_waits_and_ends_what_runs(model: Model, gate: Gate) -> None:
    async def main() -> None:
        calls = Calls(gated(model, gate))
        first = asyncio.create_task(call(calls))
        await asyncio.to_thread(gate.entered.acquire)
        second = asyncio.create_task(call(calls))
        await asyncio.sleep(0)
        calls.stop()
        gate.open.set()
        with pytest.raises(StateportError, match="server stops"):
            await second
        with pytest.raises(StateportError, match="server stops"):
            await call(calls)
        check(model, await first, 1, 1, 0)

    run(main())


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_service_joins_calls(exported: Exported, bidirectional: bool) -> None:
    path = exported(bidirectional=bidirectional)
    model = stateport.load(path)
    _, state = model(chunk())

    async def main() -> None:
        async with serving(path) as service:
            xs = [chunk(number, 3) for number in range(8)]
            requests = [Request("lstm", {"x": x, **state}) for x in xs]
            for _ in range(2):
                responses = await asyncio.gather(*[service.infer(each) for each in requests])
                for x, response in zip(xs, responses, strict=True):
                    y, after = model(x, state)
                    close(response.outputs["y"], y)
                    close(response.outputs["hn"], after["h0"])
            assert service.models["lstm"].statistics.batches == {8: 2.0}

    run(main())
