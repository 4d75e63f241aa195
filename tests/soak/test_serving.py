# SPDX-License-Identifier: Apache-2.0
"""A thousand streams that come, go and break off at random. Run by `make soak`.

STATEPORT_SOAK_SECONDS says for how long; without it, ten minutes.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect

import stateport
from stateport import Model
from tests.runtime.serve.conversation import CLOSE
from tests.runtime.serve.process import Serving, serving

Array = NDArray[Any]

STREAMS = 1000
SECONDS = float(os.environ.get("STATEPORT_SOAK_SECONDS", "600"))
#: Seconds after which the server forgets a stream whose client broke off.
IDLE = 60
#: By how many bytes the server may grow between a third of the time and its end.
GROWTH = 20_000_000


@dataclass
class Record:
    """What the streams of one run did."""

    answers: int = 0
    ended: int = 0
    broken: int = 0
    worst: float = 0.0
    memory: list[int] = field(default_factory=list)


class Rest:
    """A stream over REST, on a connection that others use too."""

    def __init__(self, server: Serving, session: aiohttp.ClientSession, id_: str) -> None:
        self._address = f"http://{server.http}/v2/models/lstm/infer"
        self._session = session
        self._id = id_

    async def step(self, x: Array, start: bool, end: bool) -> Array:
        header, data = request(self._id, x, start, end)
        headers = {"Inference-Header-Content-Length": str(len(header))}
        async with self._session.post(self._address, data=header + data, headers=headers) as answer:
            body = await answer.read()
            assert answer.status == 200, body
            length = int(answer.headers["Inference-Header-Content-Length"])
        return output(orjson.loads(body[:length]), body[length:])

    async def break_off(self, x: Array) -> None:
        """Sends a request, and closes the connection before the answer is read."""
        header, data = request(self._id, x, False, False)
        async with aiohttp.ClientSession() as session:
            headers = {"Inference-Header-Content-Length": str(len(header))}
            post = session.post(self._address, data=header + data, headers=headers)
            task = asyncio.ensure_future(post.__aenter__())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Does nothing."""


class Socket:
    """A stream on a WebSocket of its own."""

    def __init__(self, socket: ClientConnection, id_: str) -> None:
        self._socket = socket
        self._id = id_

    async def step(self, x: Array, start: bool, end: bool) -> Array:
        await self._socket.send(self._frame(x, start, end))
        answer = await self._socket.recv()
        assert isinstance(answer, bytes)
        (length,) = struct.unpack_from("<I", answer)
        return output(orjson.loads(answer[4 : 4 + length]), answer[4 + length :])

    async def break_off(self, x: Array) -> None:
        """Sends a request, and closes the connection as a client that is killed does."""
        await self._socket.send(self._frame(x, False, False))
        self._socket.transport.abort()

    async def close(self) -> None:
        """Closes the socket."""
        await self._socket.close()

    def _frame(self, x: Array, start: bool, end: bool) -> bytes:
        header, data = request(self._id, x, start, end)
        return struct.pack("<I", len(header)) + header + data


def request(id_: str, x: Array, start: bool, end: bool) -> tuple[bytes, bytes]:
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": x.shape,
        "parameters": {"binary_data_size": x.nbytes},
    }
    parameters = {"sequence_id": id_, "sequence_start": start, "sequence_end": end}
    outputs = [{"name": "y", "parameters": {"binary_data": True}}]
    document = {"inputs": [tensor], "outputs": outputs, "parameters": parameters}
    return orjson.dumps(document), x.tobytes()


def output(document: dict[str, Any], data: bytes) -> Array:
    assert "error" not in document, document
    return np.frombuffer(data, np.float32).reshape(document["outputs"][0]["shape"])


async def live(server: Serving, session: aiohttp.ClientSession, number: int, record: Record,
               model: Model, until: float) -> None:  # fmt: skip
    """One stream after the other, each of a random length and over a random transport."""
    random = np.random.default_rng(number)
    await asyncio.sleep(float(random.uniform(0, SECONDS / 5)))
    count = 0
    while time.monotonic() < until:
        count += 1
        await asyncio.sleep(float(random.exponential(0.5)))
        id_ = f"{number}-{count}"
        talker: Rest | Socket = Rest(server, session, id_)
        if random.random() < 0.3:
            socket = await connect(f"ws://{server.http}/v2/models/lstm/stream", proxy=None)
            talker = Socket(socket, id_)
        await converse(talker, random, record, model)


async def converse(
    talker: Rest | Socket, random: np.random.Generator, record: Record, model: Model
) -> None:
    """One stream from its start to its end, or to the moment at which its client breaks off."""
    beside = model.stream()
    chunks = int(random.integers(1, 20))
    breaks = bool(random.random() < 0.2)
    for index in range(chunks):
        x = random.standard_normal((1, int(random.integers(1, 5)), 5), np.float32)
        if breaks and index == chunks - 1:
            await talker.break_off(x)
            record.broken += 1
            return
        y = await talker.step(x, index == 0, index == chunks - 1)
        record.worst = max(record.worst, float(np.abs(y - beside(x)).max()))
        record.answers += 1
        await asyncio.sleep(float(random.exponential(1.0)))
    record.ended += 1
    await talker.close()


async def watch(server: Serving, record: Record, until: float) -> None:
    """Notes the server's memory again and again."""
    while time.monotonic() < until:
        text = Path(f"/proc/{server.process}/status").read_text(encoding="ascii")
        [line] = [line for line in text.splitlines() if line.startswith("VmRSS:")]
        record.memory.append(int(line.split()[1]) * 1024)
        await asyncio.sleep(SECONDS / 60)


async def live_streams(server: Serving, session: aiohttp.ClientSession) -> int:
    async with session.get(f"http://{server.http}/metrics") as answer:
        page = await answer.text()
    [line] = [each for each in page.splitlines() if each.startswith("stateport_live_streams{")]
    return int(float(line.split()[-1]))


async def soak(server: Serving, model: Model) -> Record:
    """Runs the streams, and waits until the server has forgotten those that broke off."""
    record = Record()
    until = time.monotonic() + SECONDS
    connector = aiohttp.TCPConnector(limit=200)
    async with aiohttp.ClientSession(connector=connector) as session:
        streams = [live(server, session, n, record, model, until) for n in range(STREAMS)]
        await asyncio.gather(watch(server, record, until), *streams)
        for _ in range(3 * IDLE):
            if not await live_streams(server, session):
                return record
            await asyncio.sleep(1)
        pytest.fail(f"{await live_streams(server, session)} streams are still live")


def test_a_thousand_streams_come_go_and_break_off(reference: Path) -> None:
    options = ("--capacity", "4000", "--idle", str(IDLE), "--log-level", "warning")
    with serving({"lstm": reference}, *options) as server:
        record = asyncio.run(soak(server, stateport.load(reference)))
    assert record.worst <= CLOSE, record
    assert record.answers > STREAMS, record
    assert record.ended, record
    assert record.broken, record
    later = record.memory[len(record.memory) // 3 :]
    assert max(later) - later[0] < GROWTH, record.memory
