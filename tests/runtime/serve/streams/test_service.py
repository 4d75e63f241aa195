# SPDX-License-Identifier: Apache-2.0
"""The service without a store: sequences, calls without one, limits, and what is refused."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import stateport
from stateport import ArraySpec, Contract, InputError, Model, StateSpec, Streaming
from stateport.serve.digest import digest_of
from stateport.serve.errors import ServeError, Status
from stateport.serve.request import Request
from stateport.serve.service import Service
from tests.conftest import Exported
from tests.runtime.conftest import Build
from tests.runtime.serve.streams.services import Clock, chunk, refused, run, serving, step

CLOSE = 1e-5


@pytest.fixture(scope="module")
def model(reference: Path) -> Model:
    return stateport.load(reference)


class Seen:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def request(self, model: str, outcome: str, seconds: float) -> None:
        self.events.append(("request", model, outcome))

    def step(self, model: str, waited: float, ran: float, batch: int) -> None:
        self.events.append(("step", model, batch))

    def streams(self, model: str, live: int) -> None:
        self.events.append(("streams", model, live))

    def evicted(self, model: str, reason: str) -> None:
        self.events.append(("evicted", model, reason))

    def stored(self, model: str, operation: str, seconds: float, records: int) -> None:
        self.events.append(("stored", model, operation))


def test_fifty_sequences_equal_their_streams(model: Model) -> None:
    async def talk(service: Service, number: int) -> None:
        own = model.stream()
        sequence = number + 1 if number % 2 else f"client-{number}"
        length = 2 + number % 7
        for k in range(length):
            x = chunk(100 * number + k, 1 + k % 3)
            y = await step(service, sequence, x, start=k == 0, end=k == length - 1)
            np.testing.assert_allclose(y, own(x), rtol=0, atol=CLOSE)

    async def main() -> None:
        async with serving(model) as service:
            await asyncio.gather(*[talk(service, number) for number in range(50)])
            assert service.live_streams == 0
            statistics = service.models["lstm"].statistics
            assert statistics.requests == statistics.inferences
            assert round(sum(statistics.batches.values())) == round(statistics.executions)

    run(main())


def test_an_integer_and_a_text_are_two_sequences(model: Model) -> None:
    async def main() -> None:
        async with serving(model) as service:
            first = await step(service, 5, chunk(), start=True)
            await step(service, "5", chunk(1), start=True)
            own = model.stream()
            np.testing.assert_array_equal(first, own(chunk()))
            np.testing.assert_array_equal(await step(service, 5, chunk(2)), own(chunk(2)))

    run(main())


def test_a_sequence_that_does_not_run_must_start(model: Model) -> None:
    sentence = (
        "inference request for sequence 99 to model 'lstm' must specify the START flag on the "
        "first request of the sequence"
    )

    async def main() -> None:
        async with serving(model) as service:
            with refused(Status.INVALID, sentence):
                await step(service, 99, chunk())
            with refused(Status.INVALID, sentence):
                await step(service, 99, chunk(), end=True)
            await step(service, 99, chunk(), start=True, end=True)
            with refused(Status.INVALID, sentence):
                await step(service, 99, chunk())
            with refused(Status.INVALID, "it has ended"):
                await step(service, 99, chunk())

    run(main())


@pytest.mark.parametrize("sequence", [None, 0, ""])
@pytest.mark.parametrize("flags", [{"start": True}, {"end": True}, {"step": 1}, {}], ids=str)
def test_no_id_is_refused_in_tritons_words(
    model: Model, sequence: Any, flags: dict[str, Any]
) -> None:
    async def main() -> None:
        async with serving(model) as service:
            with refused(Status.INVALID, "must specify a non-zero or non-empty correlation ID"):
                await step(service, sequence, chunk(), **flags)

    run(main())


@pytest.mark.parametrize("sequence", [-1, 2**64, True, 1.5, "x" * 257, "a\ud800"])
def test_what_is_no_id_is_refused(model: Model, sequence: Any) -> None:
    async def main() -> None:
        async with serving(model) as service:
            with refused(Status.INVALID, "correlation ID"):
                await step(service, sequence, chunk(), start=True)
            assert service.live_streams == 0

    run(main())


def test_a_second_start_ends_the_first_and_is_logged(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(model, capacity=1) as service:
            await step(service, 5, chunk(), start=True)
            again = await step(service, 5, chunk(1), start=True)
            np.testing.assert_array_equal(again, model.stream()(chunk(1)))
            assert service.live_streams == 1

    run(main())
    assert "sequence 5 of model lstm is started anew" in caplog.text


def test_a_wrong_second_start_leaves_the_stream_as_it_was(model: Model) -> None:
    async def main() -> None:
        async with serving(model) as service:
            own = model.stream()
            np.testing.assert_array_equal(await step(service, 5, chunk(), start=True), own(chunk()))
            with refused(Status.INVALID, "4"):
                await step(service, 5, np.zeros((1, 1, 4), np.float32), start=True)
            np.testing.assert_array_equal(await step(service, 5, chunk(1)), own(chunk(1)))

    run(main())


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, "'x' is missing"),
        ({"x": np.zeros((1, 1, 4), np.float32)}, "dimension 2 must be 5"),
        ({"x": np.zeros((1, 1, 5))}, "float64"),
        ({"x": np.zeros((2, 1, 5), np.float32)}, "rows along the batch axis"),
        ({"x": np.zeros((1, 0, 5), np.float32)}, "is empty"),
        ({"x": chunk(), "h0": np.zeros((1, 1, 10), np.float32)}, "no input 'h0'"),
        ({"z": chunk()}, "no input 'z'"),
    ],
    ids=str,
)
def test_a_chunk_that_does_not_fit_leaves_no_stream(model: Model, inputs: Any, text: str) -> None:
    async def main() -> None:
        async with serving(model) as service:
            with refused(Status.INVALID, text):
                await service.infer(Request("lstm", inputs, sequence=1, start=True))
            assert service.live_streams == 0

            own = model.stream()
            own(chunk())
            await step(service, 1, chunk(), start=True)
            with refused(Status.INVALID, text):
                await service.infer(Request("lstm", inputs, sequence=1))
            np.testing.assert_array_equal(await step(service, 1, chunk(2)), own(chunk(2)))

    run(main())


def test_a_failure_of_the_engine_leaves_the_stream_as_it_was(counter: Path) -> None:
    async def main() -> None:
        async with serving(counter) as service:
            one, wrong = np.array([0]), np.array([7])
            await step(service, 1, one, start=True)
            with pytest.raises(ServeError) as caught:
                await step(service, 1, wrong)
            assert caught.value.status is Status.INTERNAL
            np.testing.assert_array_equal(await step(service, 1, one), [[2, 20]])

            with pytest.raises(ServeError):
                await step(service, 2, wrong, start=True)
            with refused(Status.INVALID, "must specify the START flag"):
                await step(service, 2, one)

    run(main())


def test_a_stream_whose_answer_was_lost_is_gone(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> Any:
        raise MemoryError

    async def main() -> None:
        async with serving(model) as service:
            await step(service, 1, chunk(), start=True)
            with monkeypatch.context() as patched:
                patched.setattr("stateport.rounds._rows", fail)
                with refused(Status.INTERNAL, "its answer was lost"):
                    await step(service, 1, chunk())
            assert service.live_streams == 0
            with refused(Status.INVALID, "must specify the START flag"):
                await step(service, 1, chunk())

    run(main())


def test_a_call_without_a_sequence_takes_and_gives_states(model: Model) -> None:
    async def main() -> None:
        async with serving(model) as service:
            y, state = model(chunk())
            inputs = {"x": chunk(1, 3), **state}
            response = await service.infer(Request("lstm", inputs, id="mine"))
            expected, after = model(chunk(1, 3), state)
            assert [*response.outputs] == ["y", "hn", "cn"]
            assert response.id == "mine"
            np.testing.assert_array_equal(response.outputs["y"], expected)
            np.testing.assert_array_equal(response.outputs["hn"], after["h0"])

            with refused(Status.INVALID, "'c0' is missing"):
                await service.infer(Request("lstm", {"x": chunk(), "h0": state["h0"]}))
            only = await service.infer(Request("lstm", inputs, outputs=("cn",)))
            assert [*only.outputs] == ["cn"]
            del y

    run(main())


@pytest.fixture
def in_pairs(build: Build) -> Path:
    """A file that takes two steps at a time: it counts pairs, and a last odd step is left out."""
    contract = Contract(
        inputs=(ArraySpec("x", "float32", ("batch", "time")),),
        outputs=(ArraySpec("y", "float32", ("batch", "time")),),
        states=(StateSpec("h0", "hn", "float32", ("batch", 1)),),
        streaming=Streaming(chunk_multiple=2),
    )
    two = onnx.numpy_helper.from_array(np.array([2], np.int64), "two")
    first = onnx.numpy_helper.from_array(np.array([1], np.int64), "first")
    end = onnx.numpy_helper.from_array(np.array([2], np.int64), "end")
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "first", "end"], ["time"]),
        helper.make_node("Div", ["time", "two"], ["pairs"]),
        helper.make_node("Cast", ["pairs"], ["number"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Add", ["h0", "number"], ["hn"]),
    ]
    return build(contract, nodes, initializers=[two, first, end])


def test_a_state_that_lacks_steps_does_not_leave_the_server(in_pairs: Path) -> None:
    def request(steps: int, *outputs: str) -> Request:
        inputs = {"x": np.ones((1, steps), np.float32), "h0": np.zeros((1, 1), np.float32)}
        return Request("lstm", inputs, outputs=outputs)

    async def main() -> None:
        async with serving(in_pairs) as service:
            whole = (await service.infer(request(4))).outputs
            assert [*whole] == ["y", "hn"]
            np.testing.assert_array_equal(whole["hn"], [[2]])

            for unnamed in ([], ["y"]):
                last = (await service.infer(request(5, *unnamed))).outputs
                assert [*last] == ["y"]
                assert last["y"].shape == (1, 5)
            for named in (["hn"], ["y", "hn"]):
                with refused(Status.INVALID, "left its last 1 steps out of it"):
                    await service.infer(request(5, *named))

    run(main())


def test_a_network_without_states_needs_no_sequence(two: Path) -> None:
    async def main() -> None:
        async with serving({"two": two}) as service:
            ones = np.ones((3, 2), np.float32)
            response = await service.infer(Request("two", {"a": ones, "b": ones}))
            np.testing.assert_array_equal(response.outputs["sum"], 2 * ones)

    run(main())


def test_names_and_versions_that_are_not_there_are_not_found(model: Model) -> None:
    async def main() -> None:
        async with serving(model) as service:
            with refused(Status.NOT_FOUND, "unknown model: 'other' is not found"):
                await service.infer(Request("other", {}))
            with refused(Status.NOT_FOUND, "'lstm' version 2 is not found"):
                await service.infer(Request("lstm", {}, version="2"))
            with refused(Status.INVALID, "unexpected inference output 'z'"):
                await step(service, 1, chunk(), start=True, outputs=("z",))
            with refused(Status.INVALID, "unexpected inference output 'hn'"):
                await step(service, 1, chunk(), start=True, outputs=("hn",))
            assert await service.is_model_ready("lstm", "1")
            with refused(Status.NOT_FOUND, "other"):
                await service.is_model_ready("other")

    run(main())


def test_a_repeated_step_gets_the_recorded_answer(model: Model) -> None:
    async def main() -> None:
        async with serving(model) as service:
            own = model.stream()
            for number in range(1, 5):
                x = chunk(number)
                flags = {"start": number == 1, "end": number == 4, "step": number}
                first = await step(service, 9, x, **flags)
                again = await step(service, 9, x, **flags)
                np.testing.assert_array_equal(first, own(x))
                np.testing.assert_array_equal(again, first)

            inputs = {"x": chunk(1)}
            response = await service.infer(Request("lstm", inputs, sequence=9, start=True, step=1))
            assert response.parameters == {"sequence_step": 1}
            np.testing.assert_array_equal(response.outputs["y"], model.stream()(chunk(1)))

    run(main())


def test_a_gap_is_refused_with_the_expected_step(model: Model) -> None:
    async def main() -> None:
        async with serving(model) as service:
            with refused(Status.INVALID, "a sequence starts with step 1"):
                await step(service, 9, chunk(), start=True, step=2)
            await step(service, 9, chunk(), start=True, step=1)
            await step(service, 9, chunk(1), step=2)
            for number in (0, 1, 4, -1):
                with refused(Status.INVALID, f"has step {number}; step 3 was expected"):
                    await step(service, 9, chunk(2), step=number)
            with refused(Status.INVALID, "repeats step 2 with other inputs"):
                await step(service, 9, chunk(7), step=2)
            await step(service, 9, chunk(2))
            with refused(Status.INVALID, "step 4 was expected"):
                await step(service, 9, chunk(2), step=3)
            await step(service, 9, chunk(3), step=4)

    run(main())


def test_idle_streams_expire(model: Model) -> None:
    async def main() -> None:
        clock, seen = Clock(), Seen()
        async with serving(model, idle=60, clock=clock, observer=seen) as service:
            await step(service, 1, chunk(), start=True)
            clock.now += 40
            await step(service, 2, chunk(), start=True)
            clock.now += 30
            await service.expire()
            assert service.live_streams == 1
            assert ("evicted", "lstm", "idle") in seen.events
            await step(service, 2, chunk())
            with refused(Status.INVALID, "no request came for 60 seconds"):
                await step(service, 1, chunk())

            clock.now += 61  # the server has not looked yet
            with refused(Status.INVALID, "it expired"):
                await step(service, 2, chunk())
            assert service.live_streams == 0

    run(main())


def test_a_full_server_refuses_to_start_streams(model: Model) -> None:
    async def main() -> None:
        async with serving(model, capacity=2) as service:
            starts = [step(service, n, chunk(), start=True) for n in (1, 2, 3)]
            *_, last = await asyncio.gather(*starts, return_exceptions=True)
            assert isinstance(last, ServeError)
            assert last.status is Status.EXHAUSTED
            assert last.retry_after
            await step(service, 1, chunk(), end=True)
            await step(service, 3, chunk(), start=True)

    run(main())


def test_a_client_has_a_limit_of_its_own(model: Model) -> None:
    async def main() -> None:
        async with serving(model, most_streams_per_client=1) as service:
            await step(service, 1, chunk(), start=True, client="a")
            with refused(Status.EXHAUSTED, "This client has 1 live streams"):
                await step(service, 2, chunk(), start=True, client="a")
            await step(service, 2, chunk(), start=True, client="b")
            await step(service, 1, chunk(), start=True, client="a")
            await step(service, 1, chunk(), end=True, client="a")
            await step(service, 3, chunk(), start=True, client="a")

    run(main())


def test_more_requests_than_the_limit_are_sent_back(model: Model) -> None:
    async def main() -> None:
        seen = Seen()
        async with serving(model, queue_limit=3, observer=seen) as service:
            starts = [step(service, n + 1, chunk(), start=True) for n in range(5)]
            answers = await asyncio.gather(*starts, return_exceptions=True)
            errors = [answer for answer in answers if isinstance(answer, ServeError)]
            assert [error.status for error in errors] == [Status.EXHAUSTED] * 2
            assert errors[0].retry_after
            assert seen.events.count(("request", "lstm", "exhausted")) == 2
            assert seen.events.count(("request", "lstm", "ok")) == 3
            assert service.live_streams == 3

    run(main())


def test_a_request_whose_client_goes_away_is_counted_all_the_same(model: Model) -> None:
    async def main() -> None:
        async with serving(model) as service:
            own = model.stream()
            x = chunk()
            for number in range(1, 20):
                flags: dict[str, Any] = {"start": number == 1, "step": number}
                request = asyncio.create_task(step(service, 1, x, **flags))
                for _ in range(number % 5):
                    await asyncio.sleep(0)
                request.cancel()
                await asyncio.gather(request, return_exceptions=True)
                np.testing.assert_array_equal(await step(service, 1, x, **flags), own(x))
            assert service.live_streams == 1

    run(main())


def test_two_writers_of_one_stream_step_one_after_the_other(model: Model) -> None:
    async def main() -> None:
        async with serving(model) as service:
            await step(service, 1, chunk(), start=True)
            ys = await asyncio.gather(*[step(service, 1, chunk(k)) for k in range(8)])
            own = model.stream()
            own(chunk())
            for k, y in enumerate(ys):
                np.testing.assert_array_equal(y, own(chunk(k)))

    run(main())


def test_a_stopping_server_takes_no_new_streams_and_lets_others_end(model: Model) -> None:
    async def main() -> None:
        service = Service({"lstm": model})
        assert not service.is_live()
        with refused(Status.NOT_FOUND, "none yet"):
            await step(service, 1, chunk(), start=True)
        await service.start()
        assert service.is_live()
        assert await service.is_ready()
        await step(service, 1, chunk(), start=True)

        stopping = asyncio.create_task(service.stop(grace=60))
        await asyncio.sleep(0)
        assert not await service.is_ready()
        with refused(Status.UNAVAILABLE, "is stopping"):
            await step(service, 2, chunk(), start=True)
        assert not stopping.done()
        await step(service, 1, chunk(), end=True)
        await stopping
        assert not service.is_live()
        with refused(Status.UNAVAILABLE, "is stopping"):
            await step(service, 1, chunk(), start=True)

    run(main())


def test_a_model_is_replaced_for_new_streams(reference: Path, wrong: Path) -> None:
    async def main() -> None:
        old, new = stateport.load(reference), stateport.load(wrong)
        async with serving(reference) as service:
            before, after = old.stream(), new.stream()
            np.testing.assert_array_equal(
                await step(service, 1, chunk(), start=True), before(chunk())
            )
            await service.replace("lstm", wrong)
            np.testing.assert_array_equal(await step(service, 1, chunk(1, 9)), before(chunk(1, 9)))
            await step(service, 2, chunk(), start=True)
            after(chunk())
            y = await step(service, 2, chunk(1, 9))
            np.testing.assert_array_equal(y, after(chunk(1, 9)))
            assert not np.array_equal(y, await step(service, 1, chunk(1, 9)))

            await step(service, 1, chunk(), end=True)
            await service.expire()
            assert len(service._sequences["lstm"]._generations) == 1
            np.testing.assert_array_equal(await step(service, 2, chunk(2)), after(chunk(2)))

    run(main())


def test_a_model_of_another_contract_does_not_replace(reference: Path, two: Path) -> None:
    async def main() -> None:
        async with serving(reference) as service:
            with refused(Status.INVALID, "has another contract"):
                await service.replace("lstm", two)
            with refused(Status.NOT_FOUND, "other"):
                await service.replace("other", reference)

    run(main())


def test_a_network_that_cannot_stream_takes_calls_without_a_sequence(exported: Exported) -> None:
    async def main() -> None:
        path = exported(bidirectional=True)
        model = stateport.load(path)
        async with serving(path) as service:
            with refused(Status.UNSUPPORTED, "'lstm' takes no sequences"):
                await step(service, 1, chunk(), start=True)
            _, state = model(chunk(1, 4))
            response = await service.infer(Request("lstm", {"x": chunk(2, 4), **state}))
            np.testing.assert_array_equal(response.outputs["y"], model(chunk(2, 4), state)[0])

    run(main())


@pytest.mark.parametrize(
    "options",
    [
        {"store": "disk"},
        {"store": "file:"},
        {"store": "file:x?mode=1"},
        {"store": "file:x?sync=never"},
        {"store": "redis://localhost?timeout=soon"},
        {"store": "http://localhost"},
        {"durability": "never"},
        {"durability": "behind:0"},
        {"durability": "behind:99999999"},
    ],
    ids=str,
)
def test_wrong_options_are_refused(model: Model, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected|it has"):
        Service({"lstm": model}, **options)
    with pytest.raises(InputError, match="No models"):
        Service({})


def test_a_model_without_its_file_has_no_streams_in_a_store(model: Model, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(InputError, match="without its file"):
            await Service({"lstm": model}, store=f"file:{tmp_path}").start()

    run(main())


def test_the_digest_covers_weights_outside_of_the_file(copied: Path, tmp_path: Path) -> None:
    contract = stateport.load(copied).contract
    first = digest_of(copied, contract)
    other = tmp_path / "other.onnx"
    shutil.copy(copied, other)
    assert digest_of(other, contract) == first

    onnx.save(
        onnx.load(other), other, save_as_external_data=True, location="w.bin", size_threshold=0
    )
    outside = digest_of(other, contract)
    weights = tmp_path / "w.bin"
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    assert len({first, outside, digest_of(other, contract)}) == 3
