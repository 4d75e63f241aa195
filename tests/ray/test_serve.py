# SPDX-License-Identifier: Apache-2.0
"""Live streams on replicas of Ray Serve, which are killed, added and removed meanwhile.

Run by `make ray-check`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import runpy
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import tritonclient.http.aio as triton
from aiohttp import ClientError
from numpy.typing import NDArray
from ray import serve
from tritonclient.utils import InferenceServerException
from websockets.sync.client import connect

import stateport
import stateport.ray
from stateport import FileError, InputError, Model
from stateport.deploy.ray import write_application
from tests.ray.processes import processes
from tests.runtime.serve.asking import frame, place, unframed
from tests.runtime.serve.streams.services import Redis, chunk

#: In batches of other sizes ONNX Runtime sums in another order.
CLOSE = 1e-5
STREAMS = 200
REPLICA = "ray::ServeReplica"
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"
)


@pytest.fixture(scope="session")
def address(cluster: None) -> Iterator[str]:
    """Where Ray Serve listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield f"127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    server.start()
    yield server
    server.kill()


def until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    """Waits until something is so.

    Raises:
        AssertionError: it is not so in time.
    """
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, serve.status()
        time.sleep(0.1)


def running(replicas: int) -> bool:
    """Whether so many replicas run, and no others."""
    [deployment] = serve.status().applications["streams"].deployments.values()
    return dict(deployment.replica_states) == {"RUNNING": replicas}


class Client:
    """Steps of streams over Triton's client, repeated until they are answered."""

    def __init__(self, address: str) -> None:
        self._client = triton.InferenceServerClient(address, conn_limit=STREAMS)
        self._counted = asyncio.Condition()
        self.steps = 0
        self.repeated = 0

    async def step(self, sequence: int, step: int, x: NDArray[Any], *, end: bool) -> NDArray[Any]:
        tensor = triton.InferInput("x", x.shape, "FP32")
        tensor.set_data_from_numpy(x)
        while True:
            try:
                answer = await self._client.infer(
                    "lstm",
                    [tensor],
                    sequence_id=sequence,
                    sequence_start=step == 1,
                    sequence_end=end,
                    parameters={"sequence_step": step},
                    headers={"x-session-id": str(sequence)},
                )
            except ClientError:  # the connection has ended
                self.repeated += 1
                continue
            except InferenceServerException as error:
                if error.status() not in ("500", "503"):  # of a replica that has died
                    raise
                self.repeated += 1
                continue
            async with self._counted:
                self.steps += 1
                self._counted.notify_all()
            y: NDArray[Any] = answer.as_numpy("y")
            return y

    async def wait_for(self, more: int) -> None:
        """Waits for so many more steps."""
        wanted = self.steps + more
        async with self._counted:
            await self._counted.wait_for(lambda: self.steps >= wanted)

    async def close(self) -> None:
        await self._client.close()


async def feed(client: Client, model: Model, number: int, done: asyncio.Event) -> int:
    """Feeds one stream until all is done, and compares each answer; how many steps."""
    own = model.stream()
    for k in itertools.count(1):
        is_last = done.is_set() and k > 2
        x = chunk(1000 * number + k)
        y = await client.step(number, k, x, end=is_last)
        np.testing.assert_allclose(y, own(x), rtol=0, atol=CLOSE)
        if is_last:
            return k
    raise AssertionError


@contextlib.contextmanager
def run(made: Any) -> Iterator[None]:
    """Runs a deployment, or an application of one."""
    serve.run(made if isinstance(made, serve.Application) else made.bind(), name="streams")
    try:
        yield
    finally:
        serve.delete("streams")


def test_200_streams_survive_replicas_that_come_and_go(
    reference: Path, redis: Redis, address: str
) -> None:
    made = stateport.ray.deployment({"lstm": reference.read_bytes()}, store=redis.url)
    made = made.options(health_check_period_s=1)
    loaded = stateport.load(reference)

    def scale(replicas: int) -> None:
        serve.run(made.options(num_replicas=replicas).bind(), name="streams")
        until(lambda: running(replicas))

    def kill() -> None:
        os.kill(processes(REPLICA)[0], signal.SIGKILL)

    async def main() -> None:
        client, done = Client(address), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            feeds = [
                group.create_task(feed(client, loaded, number, done))
                for number in range(1, STREAMS + 1)
            ]
            for replicas in (2, 3, 3, 2, 2):
                await client.wait_for(STREAMS)
                await asyncio.to_thread(kill)
                await client.wait_for(STREAMS)
                await asyncio.to_thread(scale, replicas)
            await client.wait_for(STREAMS)
            done.set()
        await client.close()
        assert sum(task.result() for task in feeds) == client.steps

    with run(made):
        asyncio.run(main())


def test_a_stream_stays_on_its_replica(reference: Path, tmp_path: Path, address: str) -> None:
    """Each stream is in the memory of one replica; without the header it would be in both."""
    made = stateport.ray.deployment({"lstm": reference}, store=f"file:{tmp_path}")

    async def feed_all(count: int) -> None:
        client = Client(address)
        for step, number in itertools.product((1, 2, 3), range(1, count + 1)):
            await client.step(number, step, chunk(), end=False)
        await client.close()

    with run(made):
        until(lambda: running(2))
        asyncio.run(feed_all(20))
        live = {live_streams(address, str(session)) for session in range(20)}
        assert sum(live) == 20 or live == {10}, live
        assert 0 not in live


def test_the_written_file_is_an_application(reference: Path, tmp_path: Path, address: str) -> None:
    output = tmp_path / "app.py"
    options = {"store": f"file:{tmp_path / 'streams'}", "replicas": 1, "capacity": 8}
    write_application({"lstm": reference}, output, options)
    own = stateport.load(reference).stream()
    with (
        run(runpy.run_path(str(output))["app"]),
        connect(f"ws://{address}/v2/models/lstm/stream", proxy=None) as socket,
    ):
        for step in range(3):
            x = chunk(step)
            socket.send(frame(x, **place("s", start=step == 0, end=step == 2)))
            received = socket.recv()
            assert isinstance(received, bytes)
            y = np.frombuffer(unframed(received)[1], np.float32).reshape(1, 1, 10)
            np.testing.assert_allclose(y, own(x), rtol=0, atol=CLOSE)


def test_what_does_not_fit_is_refused_before_any_replica_starts(
    reference: Path, tmp_path: Path
) -> None:
    place = f"file:{tmp_path}"
    for options, says in (
        ({"store": "memory"}, "which ends with its replica"),
        ({"store": "floppy:a"}, "floppy"),
        ({"store": place, "replicas": 0}, "replicas is 0"),
        ({"store": place, "cores": -1}, "cores is -1"),
        ({"store": place, "durability": "never"}, "never"),
    ):
        with pytest.raises(InputError) as error:
            stateport.ray.deployment(reference, **options)
        assert says in str(error.value)
    with pytest.raises(FileError):
        stateport.ray.deployment(tmp_path / "none.onnx", store=place)


def live_streams(address: str, session: str) -> int:
    """How many streams the replica of a session has in memory."""
    request = Request(f"http://{address}/metrics", headers={"x-session-id": session})
    with urlopen(request) as answer:  # noqa: S310  # of this machine
        page = answer.read().decode()
    [line] = [line for line in page.splitlines() if line.startswith("stateport_live_streams{")]
    return int(float(line.split()[-1]))
