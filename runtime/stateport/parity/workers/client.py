# SPDX-License-Identifier: Apache-2.0
"""Starting a process that verifies an engine, and reading its messages with a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, Any, Final

from ...errors import FileError, last_line
from ...files.reading import parse_json
from .protocol import MARK, Job

# The process imports this very stateport, whichever version its interpreter has installed, and no
# other package from this environment: NumPy, safetensors and the engine's library are its own.
_START: Final = """
import importlib.util, sys
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location(
    "stateport", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["stateport"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from stateport.parity.workers.main import main
main()
"""
_PACKAGE: Final = Path(__file__).parents[2]


def ask(
    job: Job, *, python: str | None, limit: float, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Does a job in a new process.

    Args:
        job: what to do.
        python: the interpreter; by default this one.
        limit: the seconds that the process may be silent for.
        progress: is called with what the process is about to do.

    Returns:
        The messages of the process, except those on its progress. If it crashes, hangs or ends
        with an error, the last message has `died`, which describes that, and `while`, which is
        what it was doing.

    Raises:
        FileError: there is no such interpreter.
    """
    messages: list[dict[str, Any]] = []
    doing = "starting"
    with tempfile.TemporaryFile() as errors, _start_process(python, errors) as process:
        try:
            _send_job(process, job)
            for message in _read_messages(process, limit):
                if "doing" in message:
                    doing = message["doing"]
                    progress(doing)
                else:
                    messages.append(message)
            code = process.wait(limit)  # an engine's library may hang while it is unloaded
        except (Empty, subprocess.TimeoutExpired):
            died = f"It gave no sign of life for {limit:g} s ({doing}), and was stopped."
            return [*messages, {"died": died, "while": doing}]
        finally:
            process.kill()  # whatever happened here, the process must not outlive it

        if code:
            ending = f"{_describe_exit(code)}{last_line(errors)}"
            died = f"It took its process down ({doing}): {ending}."
            messages.append({"died": died, "while": doing})

    return messages


def _send_job(process: subprocess.Popen[str], job: Job) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(job.to_json() + "\n")
        process.stdin.flush()  # not closed: the process ends when its stdin does
    except BrokenPipeError:  # it ended at once, which its messages or its exit code show
        with suppress(BrokenPipeError):  # closing tries to write the rest, once
            process.stdin.close()


def _start_process(python: str | None, errors: IO[bytes]) -> subprocess.Popen[str]:
    # -P: nothing is imported from the working directory.
    command = [python or sys.executable, "-P", "-c", _START, str(_PACKAGE)]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(python),
            text=True,
            encoding="utf-8",
        )
    except OSError as error:
        raise FileError(
            f"{python} cannot be started: {error.strerror}. --python takes the path of a Python "
            "interpreter, such as .venv/bin/python."
        ) from error


def _environment(python: str | None) -> dict[str, str]:
    """The environment variables for a process of this interpreter, or of another."""
    environment = dict(os.environ)
    environment.pop("PYTHONIOENCODING", None)  # the messages are UTF-8, whatever people read
    if python is None:
        # Whatever is importable here is importable there.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        return environment

    for name in ("PYTHONPATH", "PYTHONHOME"):
        environment.pop(name, None)
    return environment


def _read_messages(process: subprocess.Popen[str], limit: float) -> Iterator[dict[str, Any]]:
    """The messages of a process; other lines on its stdout are ignored.

    Raises:
        Empty: no line came within `limit` seconds.
    """
    assert process.stdout is not None
    lines: SimpleQueue[str | None] = SimpleQueue()
    stdout = process.stdout

    def read() -> None:
        for line in stdout:
            lines.put(line)
        lines.put(None)

    Thread(target=read, daemon=True).start()

    while True:
        line = lines.get(timeout=limit)
        if line is None:
            return

        if line.startswith(MARK):
            with suppress(ValueError):  # cut off: the process ended while it wrote
                yield parse_json(line.removeprefix(MARK), finite=False)


def _describe_exit(code: int) -> str:
    """`SIGSEGV`, or the exit code."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
