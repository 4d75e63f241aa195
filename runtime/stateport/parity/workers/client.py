"""Asking a process of its own to verify an engine, with a limit on its silence."""

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

from ...errors import FileError
from ...files.reading import parse_json
from .protocol import MARK, Job

# The process takes this very stateport, whatever its interpreter has installed, and nothing else
# from beside it: only NumPy, safetensors and the engine's own library are the other environment's.
_START: Final = """
import importlib.util, sys
place = sys.argv[1]
spec = importlib.util.spec_from_file_location(
    "stateport", place + "/__init__.py", submodule_search_locations=[place])
sys.modules["stateport"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from stateport.parity.workers.main import main
main()
"""
_PACKAGE: Final = Path(__file__).parents[2]


def ask(
    job: Job, *, python: str | None, limit: float, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """All that the process tells but what it is doing, which goes to `progress`.

    One that crashes, hangs or ends with an error has `died` in its last message: how, and in
    `while` what it was doing.

    Args:
        job: what to do.
        python: the interpreter; by default this one.
        limit: the seconds that the process may be silent for.
        progress: is called with what the process is about to do.

    Raises:
        FileError: there is no such interpreter.
    """
    told: list[dict[str, Any]] = []
    doing = "starting"
    with tempfile.TemporaryFile() as errors, _process(python, errors) as process:
        try:
            _hand(process, job)
            for message in _messages(process, limit):
                if "doing" in message:
                    doing = message["doing"]
                    progress(doing)
                else:
                    told.append(message)
            code = process.wait(limit)  # its library may hang where it is unloaded
        except (Empty, subprocess.TimeoutExpired):
            said = f"It gave no sign of life for {limit:g} s ({doing}), and was stopped."
            return [*told, {"died": said, "while": doing}]
        finally:
            process.kill()  # whatever happened here, nothing of it stays behind
        if code:
            said = f"It took its process down ({doing}): {_ending(code)}{_last(errors)}."
            told.append({"died": said, "while": doing})
    return told


def _hand(process: subprocess.Popen[str], job: Job) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(job.to_json() + "\n")
        process.stdin.flush()  # and it stays open for as long as somebody waits for the answer
    except BrokenPipeError:  # it ended at once, which its answer shows, or its exit code
        with suppress(BrokenPipeError):  # closing tries to write the rest, once
            process.stdin.close()


def _process(python: str | None, errors: IO[bytes]) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    environment.pop("PYTHONIOENCODING", None)  # the two speak UTF-8, whatever people read
    if python is None:
        # What is importable here is there, whatever put it on the path.
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    else:
        for name in ("PYTHONPATH", "PYTHONHOME"):
            environment.pop(name, None)
    # -P: nothing is imported from the working directory.
    command = [python or sys.executable, "-P", "-c", _START, str(_PACKAGE)]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
            encoding="utf-8",
        )
    except OSError as error:
        raise FileError(
            f"{python} cannot be started: {error.strerror}. --python takes the path of a Python "
            "interpreter, such as .venv/bin/python."
        ) from error


def _messages(process: subprocess.Popen[str], limit: float) -> Iterator[dict[str, Any]]:
    """What the process tells, line by line; what else comes on its stdout is passed over.

    Raises:
        Empty: it is silent for too long.
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
            with suppress(ValueError):  # cut off: its process ended while it wrote
                yield parse_json(line.removeprefix(MARK), finite=False)


def _ending(code: int) -> str:
    """`SIGSEGV`, or the exit code."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


def _last(errors: IO[bytes]) -> str:
    """The last line on stderr, where there is one."""
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines()]
    words = [line for line in lines if line]
    return f" ({words[-1]})" if words else ""
