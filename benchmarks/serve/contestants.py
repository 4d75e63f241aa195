# SPDX-License-Identifier: Apache-2.0
"""The servers that are measured, each in a process of its own, and what each takes to run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import urllib3

from tests.runtime.serve.process import serving
from tests.triton.server import is_installed, triton

from ..networks import Network
from .wire import Target

_SERVERS: Final = Path(__file__).with_name("servers")
#: The environment with LitServe: its requirements are its own.
PEERS: Final = Path(".venv-servers")
#: Streams that each server may have at once.
_CAPACITY: Final = 4096


@dataclass(frozen=True)
class Running:
    """A server that runs.

    Attributes:
        addresses: its address by transport.
        process: its process; children belong to it.
    """

    addresses: dict[str, str]
    process: int


@dataclass(frozen=True)
class Contestant:
    """One way to serve a network.

    Attributes:
        name: whose server it is.
        transports: the transports that it is measured over.
        start: runs it.
    """

    name: str
    transports: tuple[str, ...]
    start: Callable[[Path, int], Iterator[Running]]

    def target(self, running: Running, transport: str, network: Network) -> Target:
        """What the load talks to."""
        return Target(transport, running.addresses[transport], network.input_size)


def _by_hand(*options: str) -> Callable[[Path, int], Iterator[Running]]:
    transport = "plain, JSON" if options else "plain"

    def start(path: Path, threads: int) -> Iterator[Running]:
        program = str(_SERVERS / "by_hand.py")
        yield from _program(sys.executable, program, path, threads, transport, *options)

    return start


def _lit(path: Path, threads: int) -> Iterator[Running]:
    python = str(PEERS / "bin" / "python")
    yield from _program(python, str(_SERVERS / "lit.py"), path, threads, "LitServe, JSON")


def _program(
    python: str, program: str, path: Path, threads: int, transport: str, *options: str
) -> Iterator[Running]:
    port = _free_port()
    command = [python, program, str(path), str(port), str(threads), *options]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    # A group of its own: LitServe's workers do not end with the process that started them.
    with subprocess.Popen(command, env=variables, start_new_session=True) as process:
        try:
            retries = urllib3.Retry(200, backoff_factor=0.1, backoff_max=0.5)
            urllib3.request("GET", f"http://127.0.0.1:{port}/docs", retries=retries, timeout=5)
            yield Running({transport: f"127.0.0.1:{port}"}, process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def _triton(path: Path, threads: int) -> Iterator[Running]:
    with (
        TemporaryDirectory() as folder,
        triton(Path(folder) / "models", {"lstm": path}, threads=threads, capacity=_CAPACITY) as it,
    ):
        yield Running({"REST": it.http, "gRPC stream": it.grpc}, it.process)


def _stateport(path: Path, threads: int) -> Iterator[Running]:  # noqa: ARG001  # its default: 1
    options = ("--capacity", str(_CAPACITY), "--log-level", "warning")
    with serving({"lstm": path}, *options) as it:
        rest = dict.fromkeys(("REST", "REST, JSON", "WebSocket"), it.http)
        yield Running({**rest, "gRPC stream": it.grpc}, it.process)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


BY_HAND: Final = Contestant("FastAPI by hand", ("plain",), _by_hand())
OURS: Final = Contestant(
    "stateport", ("REST", "REST, JSON", "gRPC stream", "WebSocket"), _stateport
)
_ALL: Final = (
    OURS,
    BY_HAND,
    Contestant("FastAPI by hand, JSON", ("plain, JSON",), _by_hand("json")),
    Contestant("LitServe", ("LitServe, JSON",), _lit),
    Contestant("Triton", ("REST", "gRPC stream"), _triton),
)


def contestants(names: tuple[str, ...] = ()) -> list[Contestant]:
    """Those that can run here, of these names or all."""
    missing = set()
    if not is_installed():
        missing.add("Triton")
    if not PEERS.exists():
        missing.add("LitServe")
    return [each for each in _ALL if each.name not in missing and (not names or each.name in names)]


@contextmanager
def running(contestant: Contestant, path: Path, threads: int = 1) -> Iterator[Running]:
    """Runs a server."""
    yield from contestant.start(path, threads)
