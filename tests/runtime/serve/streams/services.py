# SPDX-License-Identifier: Apache-2.0
"""Services under test, their clock, and a Redis server of one's own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from stateport.serve.errors import ServeError, Status
from stateport.serve.request import Request, SequenceId
from stateport.serve.service import Service

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def chunk(seed: int = 0, time: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((1, time, 5), np.float32)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def serving(models: Any, **options: Any) -> AsyncIterator[Service]:
    """A service that runs. A name for a single model is "lstm"."""
    named = models if isinstance(models, dict) else {"lstm": models}
    service = Service(named, **options)
    await service.start()
    try:
        yield service
    finally:
        await service.stop(grace=0)


async def step(
    service: Service, sequence: SequenceId | None, x: NDArray[Any], **flags: Any
) -> NDArray[Any]:
    response = await service.infer(Request("lstm", {"x": x}, sequence=sequence, **flags))
    (y,) = response.outputs.values()
    return np.asarray(y)


@contextlib.contextmanager
def refused(status: Status, text: str) -> Iterator[None]:
    """Expects a refusal with this status, and this text in its message."""
    with pytest.raises(ServeError) as caught:
        yield
    assert caught.value.status is status
    assert text in str(caught.value)


class Redis:
    """A redis-server of one's own, in a folder, with every write on the disk."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is not installed (apt-get install redis-server)")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0?timeout=5"
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        keep = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self.process = subprocess.Popen(
            [*command, *keep, "--dir", str(self._folder)], stdout=subprocess.PIPE
        )
        # It says when it listens.
        assert self.process.stdout is not None
        while b"Ready to accept connections" not in (line := self.process.stdout.readline()):
            assert line, "redis-server ended"

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None
