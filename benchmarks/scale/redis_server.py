# SPDX-License-Identifier: Apache-2.0
"""A redis-server for a measurement."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def redis() -> Iterator[tuple[str, int]]:
    """A Redis of its own, which writes nothing to disk: its URL and its process id."""
    program = shutil.which("redis-server")
    if program is None:
        raise RuntimeError("There is no redis-server. Install it: apt install redis-server.")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Ready to accept connections" in line:
                break
        try:
            yield f"redis://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
