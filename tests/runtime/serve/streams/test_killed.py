# SPDX-License-Identifier: Apache-2.0
"""Servers that are killed while streams are fed: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stateport
from stateport import Model
from tests.runtime.serve.streams import small_server
from tests.runtime.serve.streams.services import Redis, chunk, run

#: In batches of other sizes ONNX Runtime sums in another order.
CLOSE = 1e-5


class Server:
    """A server process, which is killed and started anew."""

    def __init__(self, model: Path, store: str, durability: str) -> None:
        self._command = [sys.executable, small_server.__file__, str(model), store, durability]
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0
        self.runs = asyncio.Event()

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*self._command, stdout=pipe)
        assert self._process.stdout is not None
        self.port = int(await self._process.stdout.readline())
        self.runs.set()

    async def kill(self) -> None:
        if self._process is not None:
            self.runs.clear()
            self._process.kill()
            await self._process.communicate()
            self._process = None


class Fleet:
    """Servers that share the streams."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = servers
        self.steps = 0
        self.moves = 0
        self._stepped = asyncio.Condition()

    async def ask(self, server: Server, question: dict[str, Any]) -> dict[str, Any] | None:
        """The answer of a server; None if it was killed before it answered."""
        await server.runs.wait()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                writer.write(json.dumps(question).encode() + b"\n")
                await writer.drain()
                line = await reader.readline()
            finally:
                writer.close()
        except OSError:
            return None
        answer: dict[str, Any] = json.loads(line) if line else {}
        return answer or None

    async def count(self) -> None:
        async with self._stepped:
            self.steps += 1
            self._stepped.notify_all()

    async def wait_for(self, steps: int) -> None:
        async with self._stepped:
            await self._stepped.wait_for(lambda: self.steps >= steps)


async def feed(fleet: Fleet, model: Model, number: int, done: asyncio.Event) -> int:
    """Feeds one stream until the kills are done, and compares each answer; how many steps."""
    own, random = model.stream(), np.random.default_rng(number)
    for k in itertools.count(1):
        is_last = done.is_set() and k > 2
        x = chunk(1000 * number + k)
        question = {"x": x.tolist(), "sequence": f"s{number}", "step": k}
        question |= {"start": k == 1, "end": is_last}
        answer = None
        while answer is None:
            # Any server that runs, in no order; a request without an answer is sent again to any.
            servers = [each for each in fleet.servers if each.runs.is_set()] or fleet.servers
            server = servers[int(random.integers(len(servers)))]
            answer = await fleet.ask(server, question)
        assert "y" in answer, answer
        np.testing.assert_allclose(np.float32(answer["y"]), own(x), rtol=0, atol=CLOSE)
        await fleet.count()
        if is_last:
            return k
    raise AssertionError


async def feed_while_killing(
    model: Path, store: str, *, servers: int, streams: int, kills: int, durability: str = "before"
) -> None:
    """Kills each server a number of times, in turn, while all streams are fed."""
    fleet = Fleet([Server(model, store, durability) for _ in range(servers)])
    loaded, done = stateport.load(model), asyncio.Event()
    try:
        await asyncio.gather(*[server.start() for server in fleet.servers])
        async with asyncio.TaskGroup() as group:
            feeds = [
                group.create_task(feed(fleet, loaded, number, done)) for number in range(streams)
            ]
            for _ in range(kills):
                for server in fleet.servers:
                    # In the middle of the work, somewhere else each time.
                    await fleet.wait_for(fleet.steps + streams // 2 + 7)
                    await server.kill()
                    if servers > 1:
                        await fleet.wait_for(fleet.steps + streams // 2)
                    await server.start()
            done.set()
        assert sum(task.result() for task in feeds) == fleet.steps
    finally:
        await asyncio.gather(*[server.kill() for server in fleet.servers])


def test_streams_survive_in_redis(reference: Path, redis: Redis) -> None:
    run(feed_while_killing(reference, redis.url, servers=2, streams=20, kills=2))


def test_streams_survive_in_a_folder(reference: Path, tmp_path: Path) -> None:
    store = f"file:{tmp_path / 'streams'}"
    run(feed_while_killing(reference, store, servers=1, streams=20, kills=2))


@pytest.mark.soak
def test_200_streams_survive_20_kills_of_two_servers(reference: Path, redis: Redis) -> None:
    run(feed_while_killing(reference, redis.url, servers=2, streams=200, kills=20))


@pytest.mark.soak
def test_200_streams_survive_20_kills_in_a_folder(reference: Path, tmp_path: Path) -> None:
    store = f"file:{tmp_path / 'streams'}"
    run(feed_while_killing(reference, store, servers=1, streams=200, kills=20))


@pytest.mark.soak
def test_two_servers_of_one_machine_share_a_folder(reference: Path, tmp_path: Path) -> None:
    store = f"file:{tmp_path / 'streams'}"
    run(feed_while_killing(reference, store, servers=2, streams=50, kills=5))


def test_streams_in_memory_are_gone_and_the_client_learns_of_it(reference: Path) -> None:
    async def main() -> None:
        fleet = Fleet([Server(reference, "memory", "before")])
        (server,) = fleet.servers
        question = {"x": chunk().tolist(), "sequence": 7}
        try:
            await server.start()
            assert "y" in (await fleet.ask(server, {**question, "start": True}) or {})
            await server.kill()
            await server.start()
            answer = await fleet.ask(server, question)
            assert answer is not None
            assert answer["status"] == "INVALID"
            assert "must specify the START flag" in answer["message"]
            assert "never started, has ended, or expired" in answer["message"]
        finally:
            await server.kill()

    run(main())


@pytest.mark.parametrize("kind", ["file", "redis"])
def test_behind_loses_no_more_than_its_time(
    reference: Path, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """The stream goes on from a step that was answered, and says which one it expects."""

    async def main(store: str) -> None:
        fleet = Fleet([Server(reference, store, "behind:50")])
        (server,) = fleet.servers
        model = stateport.load(reference)
        xs = [chunk(k) for k in range(40)]
        ys = []
        own = model.stream()
        for x in xs:
            ys.append(own(x))

        async def ask(k: int) -> dict[str, Any]:
            question = {"x": xs[k - 1].tolist(), "sequence": 7, "step": k, "start": k == 1}
            return await fleet.ask(server, question) or {}

        try:
            await server.start()
            for k in range(1, 21):
                np.testing.assert_allclose((await ask(k))["y"], ys[k - 1], rtol=0, atol=CLOSE)
            await server.kill()
            await server.start()

            answer = await ask(21)
            while answer.get("status") == "UNAVAILABLE":  # until the dead server's claim ends
                await asyncio.sleep(0.05)
                answer = await ask(21)
            k = 21
            if "status" in answer:
                expected = answer["message"].partition("; step ")[2].partition(" ")[0]
                k = int(expected or 1)  # not even the first step was saved: it has to start anew
                assert 1 <= k <= 21, answer
            for again in range(k, 31):
                np.testing.assert_allclose(
                    (await ask(again))["y"], ys[again - 1], rtol=0, atol=CLOSE
                )
        finally:
            await server.kill()

    store = f"file:{tmp_path / 'streams'}"
    if kind == "redis":
        store = request.getfixturevalue("redis").url
    run(main(store))
