# SPDX-License-Identifier: Apache-2.0
"""The stores: records are compared and set, and expire; what others wrote is refused."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from stateport import FileError, InputError
from stateport.serve.stores import (
    ABSENT,
    ANY,
    Conflict,
    MemoryStore,
    Record,
    StoreError,
    open_store,
)
from stateport.serve.stores.batches import Batches, Load, Operation, Outcome
from stateport.serve.stores.file import FileStore
from stateport.serve.stores.redis import RedisStore
from tests.runtime.serve.streams.services import Clock, Redis, run

RECORD = Record(
    version="v1",
    model="m",
    step=3,
    state=bytes(range(256)),
    answer=b"\0answer",
    inputs=b"\xff\0",
    holder="server",
    held_until=12345.678,
    idle=60.0,
)


def test_a_record_comes_back_whole(store: str) -> None:
    async def main() -> None:
        kept = open_store(store)
        await kept.open()
        await kept.check()
        assert await kept.load("a") is None
        await kept.save("a", RECORD, ABSENT)
        assert await kept.load("a") == RECORD
        ended = replace(RECORD, version="v2", ended=True, state=b"", holder="", held_until=0.0)
        await kept.save("a", ended, "v1")
        await kept.close()

        again = open_store(store)
        await again.open()
        assert await again.load("a") == ended
        assert await again.load("b") is None
        await again.close()

    run(main())


def test_a_write_needs_the_version_that_there_is(store: str) -> None:
    async def main() -> None:
        kept = open_store(store)
        await kept.open()
        second = replace(RECORD, version="v2", step=4)
        for expected in ("v0", "v1"):
            with pytest.raises(Conflict):
                await kept.save("a", RECORD, expected)
        await kept.save("a", RECORD, ABSENT)
        for expected in ("v0", ABSENT):
            with pytest.raises(Conflict):
                await kept.save("a", second, expected)
        assert await kept.load("a") == RECORD

        await kept.save("a", second, "v1")
        await kept.save("a", second, "v1")  # repeated, because the answer was lost
        assert await kept.load("a") == second
        with pytest.raises(Conflict):
            await kept.save("a", replace(RECORD, version="v3"), "v1")
        await kept.save("a", RECORD, ANY)
        assert await kept.load("a") == RECORD
        await kept.close()

    run(main())


def test_a_removal_needs_the_version_that_there_is(store: str) -> None:
    async def main() -> None:
        kept = open_store(store)
        await kept.open()
        await kept.delete("a", "v1")
        await kept.save("a", RECORD, ABSENT)
        with pytest.raises(Conflict):
            await kept.delete("a", "v0")
        await kept.delete("a", "v1")
        await kept.delete("a", "v1")
        assert await kept.load("a") is None
        await kept.save("a", RECORD, ABSENT)
        await kept.delete("a", ANY)
        assert await kept.load("a") is None
        await kept.close()

    run(main())


def test_of_many_writers_one_succeeds(store: str) -> None:
    async def main() -> None:
        first, second = open_store(store), open_store(store)
        await first.open()
        await second.open()
        await first.save("a", RECORD, ABSENT)
        writes = [
            (first, second)[number % 2].save("a", replace(RECORD, version=f"w{number}"), "v1")
            for number in range(20)
        ]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert outcomes.count(None) == 1
        assert all(isinstance(outcome, Conflict | None) for outcome in outcomes)
        winner = await second.load("a")
        assert winner is not None
        assert winner.version == f"w{outcomes.index(None)}"
        await first.close()
        await second.close()

    run(main())


def test_records_of_a_folder_expire(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        kept = FileStore(tmp_path, clock=clock)
        await kept.open()
        await kept.save("a", RECORD, ABSENT)
        clock.now += 59
        await kept.save("b", RECORD, ABSENT)
        assert await kept.load("a") == RECORD
        clock.now += 1
        assert await kept.load("a") is None
        with pytest.raises(Conflict):
            await kept.save("a", replace(RECORD, version="v2"), "v1")
        clock.now += 31
        await kept.save("c", RECORD, ABSENT)  # removes what expired
        await kept.close()
        with sqlite3.connect(tmp_path / "streams.sqlite") as connection:
            assert connection.execute("SELECT key FROM streams").fetchall() == [("b",), ("c",)]
        connection.close()

    run(main())


def test_records_in_redis_expire(redis: Redis) -> None:
    async def main() -> None:
        kept = RedisStore.of(f"{redis.url}&prefix=lab")
        await kept.save("a", RECORD, ABSENT)
        left = await kept._redis.pttl("lab:a")
        assert 0 < left <= 60_000
        await kept.save("a", replace(RECORD, version="v2", idle=0.001), "v1")
        while await kept._redis.exists("lab:a"):
            await asyncio.sleep(0)
        assert await kept.load("a") is None
        await kept.close()

    run(main())


def test_a_redis_that_is_gone_is_an_error_and_comes_back(redis: Redis) -> None:
    async def main() -> None:
        kept = open_store(redis.url)
        await kept.save("a", RECORD, ABSENT)
        redis.kill()
        with pytest.raises(StoreError):
            await kept.check()
        outcomes = await asyncio.gather(
            kept.load("a"), kept.save("a", RECORD, ANY), return_exceptions=True
        )
        assert all(isinstance(outcome, StoreError) for outcome in outcomes)
        redis.start()
        await kept.check()
        assert await kept.load("a") == RECORD
        await kept.save("a", replace(RECORD, version="v2"), "v1")
        await kept.close()

    run(main())


def test_what_another_program_wrote_to_redis_is_an_error(redis: Redis) -> None:
    async def main() -> None:
        kept = RedisStore.of(redis.url)
        await kept._redis.hset("stateport:a", "version", "v1")
        await kept._redis.set("stateport:b", "text")
        for key in ("a", "b"):
            with pytest.raises(StoreError):
                await kept.load(key)
        with pytest.raises(StoreError):
            await kept.save("b", RECORD, ANY)
        await kept.save("c", RECORD, ANY)
        await kept.close()

    run(main())


def test_a_password_is_in_no_message() -> None:
    kept = open_store("redis://user:secret@127.0.0.1:1/0?timeout=1")
    assert kept.name == "redis://127.0.0.1:1/0"
    with pytest.raises(InputError) as caught:
        open_store("redis+x://user:secret@host")
    assert "secret" not in str(caught.value)


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "file").write_text("text")
        with pytest.raises(FileError, match="cannot be kept"):
            await FileStore(tmp_path / "file").open()

        (tmp_path / "streams.sqlite").write_text("no database, but some text that is long enough")
        with pytest.raises(FileError, match="cannot be kept"):
            await FileStore(tmp_path).open()

        other = tmp_path / "other"
        other.mkdir()
        with sqlite3.connect(other / "streams.sqlite") as connection:
            connection.execute("PRAGMA user_version=9")
        connection.close()
        with pytest.raises(FileError, match="has the format 9"):
            await FileStore(other).open()

    run(main())


def test_a_folder_that_fails_later_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        kept = FileStore(tmp_path)
        with pytest.raises(StoreError, match="not open"):
            await kept.check()
        await kept.open()
        with sqlite3.connect(tmp_path / "streams.sqlite") as connection:
            connection.execute("DROP TABLE streams")
        connection.close()
        with pytest.raises(StoreError, match="no such table"):
            await kept.save("a", RECORD, ANY)
        await kept.close()

    run(main())


@pytest.mark.parametrize(("sync", "number"), [("full", 2), ("normal", 1)])
def test_the_disk_is_waited_for_as_asked(tmp_path: Path, sync: str, number: int) -> None:
    async def main() -> None:
        kept = FileStore.of(f"file:{tmp_path}?sync={sync}")
        await kept.open()
        connection = kept._connection
        assert connection is not None
        pragmas = await kept._in_thread(
            lambda: [
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("synchronous", "journal_mode")
            ]
        )
        assert pragmas == [number, "wal"]
        await kept.close()

    run(main())


def test_memory_keeps_nothing() -> None:
    async def main() -> None:
        kept = open_store("memory")
        assert isinstance(kept, MemoryStore)
        assert not kept.is_durable
        await kept.open()
        await kept.check()
        await kept.save("a", RECORD, ANY)
        assert await kept.load("a") is None
        await kept.delete("a", ANY)
        await kept.close()

    run(main())


def test_operations_that_wait_run_together() -> None:
    async def main() -> None:
        sizes = []

        async def work(operations: list[Operation]) -> list[Outcome]:
            sizes.append(len(operations))
            await asyncio.sleep(0)
            return [KeyError(operation.key) for operation in operations]

        batches = Batches(work)  # type: ignore[arg-type]
        first = [batches.submit(Load(str(number))) for number in range(3)]
        await asyncio.sleep(0)
        second = [batches.submit(Load(str(number))) for number in range(5)]
        second[0].cancel()
        outcomes = await asyncio.gather(*first, *second, return_exceptions=True)
        assert sizes == [3, 5]
        assert [type(outcome) for outcome in outcomes].count(KeyError) == 7
        await batches.finish()

    run(main())


def test_a_fault_of_a_store_leaves_nobody_waiting() -> None:
    async def main() -> None:
        async def work(operations: object) -> list[Outcome]:
            raise ZeroDivisionError

        batches = Batches(work)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await batches.submit(Load("a"))
        await batches.finish()

    run(main())


def test_a_store_that_is_gone_lets_nobody_wait() -> None:
    async def main() -> None:
        calls = []

        async def work(operations: object) -> list[Outcome]:
            calls.append(operations)
            await asyncio.sleep(0)
            raise StoreError("gone")

        batches = Batches(work)
        first = batches.submit(Load("a"))
        await asyncio.sleep(0)
        second = batches.submit(Load("b"))
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert all(isinstance(outcome, StoreError) for outcome in outcomes)
        assert len(calls) == 1

    run(main())
