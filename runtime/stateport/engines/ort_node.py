# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime in Node, with the npm package `stateport` (`ort-node`).

Each engine has a Node process, `ort_node_worker.mjs`, which holds the model as long as the engine
lives. A call is one message to it and one back. Calls at the same time have a process each.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final

from ..errors import EngineError, EngineUnavailable, last_line
from ..model_file.onnx_outline import OnnxFile
from . import Status
from .base import EngineFacts
from .npm_package import (
    Answer,
    NpmEngine,
    Peer,
    absent,
    check_options,
    modules_folder,
    read_answer,
)
from .requirements import NotInstalledError

#: The variable that names the program `node`.
_NODE: Final = "STATEPORT_NODE"
_OPTIONS: Final = ("modules", "node")
_LIBRARY: Final = "onnxruntime-node"
_INSTALL: Final = f"npm install stateport {_LIBRARY}"
_FACTS: Final = EngineFacts(install=_INSTALL, for_speed=False)
_WORKER: Final = Path(__file__).with_name("ort_node_worker.mjs")
_OLDEST_NODE: Final = 20
#: What the worker says where a package is missing.
_ABSENT: Final = ("MODULE_NOT_FOUND", "ERR_MODULE_NOT_FOUND", "EngineUnavailable")


def open_engine(
    name: str, file: OnnxFile, threads: int | None, options: Mapping[str, object]
) -> NpmEngine:
    """Loads a file; see `stateport.engines.open_engine`.

    The options are `modules`, the folder with `node_modules`, and `node`, the program.
    """
    setup = _setup(name, options)
    return NpmEngine(
        name, partial(NodeProcess, setup, [str(file.path.resolve()), str(threads or 1)])
    )


def facts(name: str) -> EngineFacts:  # noqa: ARG001
    """The facts about the engine."""
    return _FACTS


def status(name: str) -> Status:
    """Whether the engine works here, by importing the packages in a Node process."""
    process = NodeProcess(_setup(name, {}), [])
    process.stop()
    return Status(name, process.version, None)


@dataclass(frozen=True)
class _Setup:
    """The program `node`, and the folder with `node_modules`."""

    node: str
    modules: str


class NodeProcess(Peer):
    """One Node process, and the frames to and from it."""

    def __init__(self, setup: _Setup, arguments: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `stop`
        command = [setup.node, str(_WORKER), setup.modules, *arguments]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                # Ctrl-C is for Python alone, which then ends the process.
                start_new_session=True,
                env={"ORT_DISABLE_TELEMETRY": "1", **os.environ},
            )
        except OSError as error:
            self._errors.close()
            raise EngineUnavailable(
                f"ort-node: {setup.node} cannot be started: {error.strerror}. {_NODE} names the "
                "program node."
            ) from error

        try:
            self.version = self._version(setup)
        except BaseException:
            self.stop()
            raise

    def send(self, parts: Sequence[bytes]) -> None:
        """Writes a frame to the process."""
        with contextlib.suppress(BrokenPipeError):  # it ended, which the answer shows
            pipe = self._pipe(self._process.stdin)
            for part in parts:
                pipe.write(part)
            pipe.flush()

    def receive(self) -> Answer:
        """Reads a frame from the process."""
        return read_answer(self._read)

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # closing writes what is left
                self._pipe(pipe).close()
        self._errors.close()

    def _version(self, setup: _Setup) -> str:
        """What the process says first: the version of ONNX Runtime and of Node."""
        answer, _ = self.receive()
        if "error" not in answer:
            return str(answer["version"])

        if answer["code"] in _ABSENT:
            raise absent("ort-node", _LIBRARY, setup.modules, _INSTALL)
        if answer["code"] == "OldNode":
            raise EngineUnavailable(
                f"ort-node needs Node {_OLDEST_NODE} or newer; {setup.node} is {answer['error']}. "
                f"{_NODE} names another one."
            )
        raise EngineError(answer["error"])

    def _read(self, count: int) -> bytes:
        content = self._pipe(self._process.stdout).read(count)
        if len(content) == count:
            return content
        code = self._process.wait()
        raise EngineError(f"The Node process ended with exit code {code}{last_line(self._errors)}.")

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


def _setup(name: str, options: Mapping[str, object]) -> _Setup:
    """Where Node and the packages are, by the options and the environment's variables."""
    check_options(name, options, _OPTIONS)
    node = options.get("node") or os.environ.get(_NODE) or shutil.which("node")
    if node is None:
        raise NotInstalledError(
            f"{name} needs Node {_OLDEST_NODE} or newer, which is not on the PATH. Install it: "
            f"https://nodejs.org; or name the program: {_NODE}=PATH."
        )
    return _Setup(str(node), modules_folder(name, options, _LIBRARY, _INSTALL))
