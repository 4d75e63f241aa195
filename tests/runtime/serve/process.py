# SPDX-License-Identifier: Apache-2.0
"""`stateport serve` in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO


@dataclass(frozen=True)
class Serving:
    """A running server.

    Attributes:
        http: the address of REST and WebSockets, as 127.0.0.1:8000.
        grpc: the address of gRPC.
        process: its process id.
    """

    http: str
    grpc: str
    process: int


@contextmanager
def serving(
    models: Mapping[str, Path], *options: str, log: Path | None = None
) -> Iterator[Serving]:
    """Runs the server on free ports, and stops it with SIGTERM.

    Args:
        models: the model files by their names.
        options: more options of the command.
        log: a file that is made for the server's log.

    Raises:
        AssertionError: the server did not start, or did not stop in order.
    """
    command = [sys.executable, "-m", "stateport", "serve", "--http", "0", "--grpc", "0"]
    command += ["--grace", "0", *options]  # streams may be left that run
    command += [f"{name}={path}" for name, path in models.items()]
    with (
        TemporaryFile("w+") if log is None else log.open("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            yield _ready(process, errors)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait() == 0, f"the server ended with {process.returncode}"


def _ready(process: subprocess.Popen[str], errors: IO[str]) -> Serving:
    """Reads the line that the server prints when it is ready."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("ready "):
        process.wait()
        errors.seek(0)
        raise AssertionError(f"The server printed {line!r}, and:\n{errors.read()}")
    places = dict(word.split("=") for word in line.split()[1:])
    return Serving(places["http"], places["grpc"], process.pid)
