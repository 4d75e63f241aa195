# SPDX-License-Identifier: Apache-2.0
"""Streams in a store: other servers go on with them, and no server runs ahead of the store."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stateport
from stateport import Model
from stateport.serve.codec import pack
from stateport.serve.errors import ServeError, Status
from stateport.serve.request import Request
from stateport.serve.service import Service
from stateport.serve.stores import ANY, StoreError, open_store
from stateport.serve.stores.redis import RedisStore
from tests.runtime.serve.streams.services import Clock, Redis, chunk, refused, run, serving, step


@pytest.fixture(scope="module")
def model(reference: Path) -> Model:
    return stateport.load(reference)


def same(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("durability", ["before", "behind:1000"])
def test_a_stream_survives_its_server(
    reference: Path, model: Model, store: str, durability: str
) -> None:
    async def main() -> None:
        own = model.stream()
        options: dict[str, Any] = {"store": store, "durability": durability}
        async with serving(reference, **options) as service:
            same(await step(service, 5, chunk(), start=True), own(chunk()))
            same(await step(service, "5", chunk(9), start=True), model.stream()(chunk(9)))
        for number in range(1, 4):
            async with serving(reference, **options) as service:
                same(await step(service, 5, chunk(number)), own(chunk(number)))
                assert await service.is_ready()
        async with serving(reference, **options) as service:
            same(await step(service, 5, chunk(4), end=True), own(chunk(4)))
            with refused(Status.INVALID, "must specify the START flag"):
                await step(service, 5, chunk())
        async with serving(reference, **options) as service:
            with refused(Status.INVALID, "must specify the START flag"):
                await step(service, 5, chunk())

    run(main())


def test_two_servers_step_one_stream_in_turn(reference: Path, model: Model, store: str) -> None:
    async def main() -> None:
        async with (
            serving(reference, store=store) as first,
            serving(reference, store=store) as second,
        ):
            own = model.stream()
            for number in range(10):
                server = (first, second)[number % 2]
                x = chunk(number)
                same(await step(server, 1, x, start=number == 0, step=number + 1), own(x))
            # The other server's copy is old: it finds the recorded answer all the same.
            x = chunk(9)
            again = await step(first, 1, x, step=10)
            same(again, await step(second, 1, x, step=10))
            with refused(Status.INVALID, "has step 5; step 11 was expected"):
                await step(first, 1, x, step=5)
            same(await step(first, 1, chunk(10), end=True, step=11), own(chunk(10)))
            same(await step(second, 1, chunk(10), end=True, step=11), await _last(first))
            with refused(Status.INVALID, "must specify the START flag"):
                await step(second, 1, x, step=12)

    async def _last(server: Service) -> Any:
        return await step(server, 1, chunk(10), end=True, step=11)

    run(main())


def test_two_servers_that_step_at_once_both_count(
    reference: Path, model: Model, store: str
) -> None:
    async def main() -> None:
        async with (
            serving(reference, store=store) as first,
            serving(reference, store=store) as second,
        ):
            own, x = model.stream(), chunk()
            await step(first, 1, x, start=True)
            expected = [own(x) for _ in range(9)][1:]
            steps = [step((first, second)[number % 2], 1, x) for number in range(8)]
            ys = await asyncio.gather(*steps)
            # In some order; but each step is made once.
            for y in expected:
                assert sum(np.array_equal(y, other) for other in ys) == 1

    run(main())


def test_one_numbered_step_sent_to_two_servers_is_made_once(
    reference: Path, model: Model, store: str
) -> None:
    async def main() -> None:
        async with (
            serving(reference, store=store) as first,
            serving(reference, store=store) as second,
        ):
            own = model.stream()
            for number in range(1, 8):
                x, expected = chunk(number), own(chunk(number))
                flags: dict[str, Any] = {"start": number == 1, "step": number}
                both = [step(server, 1, x, **flags) for server in (first, second)]
                for y in await asyncio.gather(*both):
                    same(y, expected)

    run(main())


def test_a_recorded_answer_has_the_contracts_order(two: Path, store: str) -> None:
    """The store's format sorts by dtype and name; the contract has the sum first."""
    ones = {"a": np.ones((1, 2), np.float32), "b": np.full((1, 2), 3, np.float32)}

    async def main() -> None:
        async with (
            serving(two, store=store) as first,
            serving(two, store=store) as second,
        ):
            for number in (1, 2, 3):
                request = Request("lstm", ones, sequence=1, start=number == 1, end=number == 3)
                request = replace(request, step=number)
                for server in (first, first, second, second):
                    outputs = (await server.infer(request)).outputs
                    assert [*outputs] == ["sum", "difference"]
                    same(outputs["sum"], [[4, 4]])
                    same(outputs["difference"], [[-2, -2]])

    run(main())


def test_a_start_that_another_model_has_answered_is_made(
    reference: Path, wrong: Path, store: str
) -> None:
    x = chunk(1, 9)

    async def main() -> None:
        for path in (reference, wrong):
            own = stateport.load(path).stream()
            async with serving(path, store=store) as service:
                same(await step(service, 1, x, start=True, step=1), own(x))
                same(await step(service, 1, x, step=2), own(x))
                same(await step(service, 1, x, start=True, step=1), stateport.load(path)(x)[0])

    run(main())


def test_a_start_on_another_server_ends_the_stream(
    reference: Path, model: Model, store: str
) -> None:
    async def main() -> None:
        async with (
            serving(reference, store=store) as first,
            serving(reference, store=store) as second,
        ):
            await step(first, 1, chunk(), start=True)
            own = model.stream()
            same(await step(second, 1, chunk(1), start=True), own(chunk(1)))
            same(await step(first, 1, chunk(2)), own(chunk(2)))

    run(main())


def test_another_models_state_is_refused(reference: Path, wrong: Path, store: str) -> None:
    async def main() -> None:
        async with serving(reference, store=store) as service:
            await step(service, 1, chunk(), start=True)
        async with serving(wrong, store=store) as service:
            with refused(Status.INVALID, "belongs to another model"):
                await step(service, 1, chunk())
            await step(service, 1, chunk(), start=True)
            await step(service, 1, chunk())

    run(main())


def test_streams_of_a_replaced_model_go_on_in_the_store(
    reference: Path, wrong: Path, model: Model, store: str
) -> None:
    async def main() -> None:
        async with serving(reference, store=store, capacity=1) as service:
            own, new = model.stream(), stateport.load(wrong).stream()
            same(await step(service, 1, chunk(), start=True), own(chunk()))
            await service.replace("lstm", wrong)
            same(await step(service, 2, chunk(), start=True), new(chunk()))
            same(await step(service, 1, chunk(1)), own(chunk(1)))
            same(await step(service, 2, chunk(1)), new(chunk(1)))

    run(main())


def test_a_full_server_lets_idle_streams_go_to_the_store(
    reference: Path, model: Model, store: str
) -> None:
    async def main() -> None:
        for durability in ("before", "behind"):
            options: dict[str, Any] = {"store": store, "durability": durability, "capacity": 3}
            async with serving(reference, **options) as service:
                own = {number: model.stream() for number in range(1, 11)}
                for turn in range(3):
                    for number, stream in own.items():
                        x = chunk(100 * turn + number)
                        same(await step(service, number, x, start=turn == 0), stream(x))
                assert service.live_streams == 3
                for number in own:
                    await step(service, number, chunk(), end=True)
                assert service.live_streams == 0

    run(main())


def test_a_damaged_record_is_an_error(reference: Path, store: str) -> None:
    async def main() -> None:
        async with serving(reference, store=store) as service:
            await step(service, 1, chunk(), start=True, step=1)
            kept = open_store(store)
            await kept.open()
            record = await kept.load("lstm/i1")
            assert record is not None
            pieces = [b"", b"\x80\x04K\x01.", record.state[:-4]]
            changes: list[dict[str, Any]] = [{"state": piece} for piece in pieces]
            changes += [{"answer": piece} for piece in pieces]
            changes.append({"answer": pack({"z": chunk()})})
            for number, change in enumerate(changes):
                damaged = replace(record, version=f"d{number}", **change)
                await kept.save("lstm/i1", damaged, ANY)
                with refused(Status.INTERNAL, "cannot be read"):
                    await step(service, 1, chunk(), step=1)
                assert service.live_streams == ("answer" in change)
            await kept.close()

    run(main())


def test_redis_stopped_and_started_anew_loses_nothing(
    reference: Path, model: Model, redis: Redis
) -> None:
    async def main() -> None:
        async with serving(reference, store=redis.url) as service:
            own = model.stream()
            for number in range(1, 4):
                x = chunk(number)
                same(await step(service, 1, x, start=number == 1, step=number), own(x))
                redis.kill()
                assert not await service.is_ready()
                assert not await service.is_model_ready("lstm")
                assert service.is_live()
                for _ in range(2):
                    with refused(Status.UNAVAILABLE, "does not answer") as _:
                        await step(service, 1, chunk(number + 1), step=number + 1)
                with refused(Status.UNAVAILABLE, "does not answer"):
                    await step(service, 2, chunk(), start=True)
                assert service.live_streams == 0
                redis.start()
                assert await service.is_ready()
            with refused(Status.INVALID, "must specify the START flag"):
                await step(service, 2, chunk())

    run(main())


def test_redis_cut_off_is_a_clear_error(reference: Path, model: Model, redis: Redis) -> None:
    async def main() -> None:
        store = RedisStore(f"redis://127.0.0.1:{redis.port}", timeout=0.2)
        async with serving(reference, store=store) as service:
            own = model.stream()
            same(await step(service, 1, chunk(), start=True, step=1), own(chunk()))
            assert redis.process is not None
            redis.process.send_signal(signal.SIGSTOP)
            with refused(Status.UNAVAILABLE, "does not answer"):
                await step(service, 1, chunk(1), step=2)
            assert not await service.is_ready()
            redis.process.send_signal(signal.SIGCONT)
            # The write may have reached it all the same: the number says so.
            same(await step(service, 1, chunk(1), step=2), own(chunk(1)))
            same(await step(service, 1, chunk(2), step=3), own(chunk(2)))

    run(main())


class Failing:
    """A store in a folder that fails when it is told to, before or after it has written."""

    is_durable = True

    def __init__(self, url: str) -> None:
        self._store = open_store(url)
        self.name = self._store.name
        self.fails = ""
        self.open, self.close = self._store.open, self._store.close
        self.load, self.delete = self._store.load, self._store.delete

    async def check(self) -> None:
        if self.fails:
            raise StoreError("no answer")

    def save(self, key: str, record: Any, expected: str) -> asyncio.Future[None]:
        async def write() -> None:
            if self.fails != "before":
                await self._store.save(key, record, expected)
            if self.fails:
                raise StoreError("no answer")

        return asyncio.ensure_future(write())


@pytest.mark.parametrize("fails", ["before", "after"])
def test_a_step_that_could_not_be_saved_can_be_sent_again(
    reference: Path, model: Model, tmp_path: Path, fails: str
) -> None:
    async def main() -> None:
        store = Failing(f"file:{tmp_path}")
        async with serving(reference, store=store) as service:
            own = model.stream()
            for number in range(1, 6):
                x = chunk(number)
                flags: dict[str, Any] = {"start": number == 1, "step": number, "end": number == 5}
                store.fails = fails
                with refused(Status.UNAVAILABLE, "Send the request again"):
                    await step(service, 1, x, **flags)
                assert service.live_streams == 0
                store.fails = ""
                same(await step(service, 1, x, **flags), own(x))

    run(main())


def test_a_step_without_a_number_that_was_not_saved_has_not_happened(
    reference: Path, model: Model, tmp_path: Path
) -> None:
    async def main() -> None:
        store = Failing(f"file:{tmp_path}")
        async with serving(reference, store=store) as service:
            own = model.stream()
            same(await step(service, 1, chunk(), start=True), own(chunk()))
            store.fails = "before"
            with refused(Status.UNAVAILABLE, "The stream is as it was saved last"):
                await step(service, 1, chunk(1))
            store.fails = ""
            same(await step(service, 1, chunk(2)), own(chunk(2)))

    run(main())


def test_a_client_that_goes_away_leaves_its_step_in_the_store(
    reference: Path, model: Model, store: str
) -> None:
    async def main() -> None:
        async with serving(reference, store=store) as service:
            own = model.stream()
            for number in range(1, 16):
                x = chunk(number)
                flags: dict[str, Any] = {"start": number == 1, "step": number}
                request = asyncio.create_task(step(service, 1, x, **flags))
                for _ in range(number % 8):
                    await asyncio.sleep(0)
                request.cancel()
                await asyncio.gather(request, return_exceptions=True)
                same(await step(service, 1, x, **flags), own(x))
            assert service.live_streams == 1

    run(main())


def test_behind_saves_later_and_claims_the_stream(
    reference: Path, model: Model, store: str
) -> None:
    async def main() -> None:
        options: dict[str, Any] = {"store": store, "durability": "behind:60000"}
        async with serving(reference, **options) as first, serving(reference, **options) as second:
            own = model.stream()
            for number in range(1, 4):
                same(await step(first, 1, chunk(number), start=number == 1), own(chunk(number)))

            # The other server is told to wait, and nothing of its own is answered.
            with pytest.raises(ServeError) as caught:
                await step(second, 1, chunk(4))
            assert caught.value.status is Status.UNAVAILABLE
            assert caught.value.retry_after is not None
            assert 0 < caught.value.retry_after <= 62
            assert "is used by another server" in str(caught.value)

            await first.flush()  # saves, and keeps the claim
            with refused(Status.UNAVAILABLE, "is used by another server"):
                await step(second, 1, chunk(4))
            for sequences in first._sequences.values():
                await sequences.release()
            same(await step(second, 1, chunk(4)), own(chunk(4)))
            with refused(Status.UNAVAILABLE, "is used by another server"):
                await step(first, 1, chunk(5))

    run(main())


def test_behind_never_gets_further_ahead_than_it_may(
    reference: Path, model: Model, tmp_path: Path
) -> None:
    async def main() -> None:
        clock, store = Clock(), Failing(f"file:{tmp_path}")
        options: dict[str, Any] = {"store": store, "durability": "behind:5000", "clock": clock}
        async with serving(reference, **options) as service:
            own = model.stream()
            same(await step(service, 1, chunk(), start=True, step=1), own(chunk()))
            store.fails = "before"
            await service.flush()  # fails, and is logged
            clock.now += 4
            same(await step(service, 1, chunk(1), step=2), own(chunk(1)))
            clock.now += 2
            with refused(Status.UNAVAILABLE, "does not answer"):
                await step(service, 1, chunk(2), step=3)
            clock.now += 60
            assert not await service.is_ready()
            store.fails = ""
            assert not await service.is_ready()
            same(await step(service, 1, chunk(2), step=3), own(chunk(2)))
            assert await service.is_ready()

    run(main())
