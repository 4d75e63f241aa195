# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime in Node, with the npm package `stateport` (`ort-node`).

Each engine has a Node process, `ort_node_worker.mjs`, which holds the model as long as the engine
lives. A call is one message to it and one back. Calls at the same time have a process each.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, EngineUnavailable, InputError
from ..files.reading import parse_json
from ..model_file.onnx_outline import OnnxFile
from ..suggestions import did_you_mean
from . import Status
from .base import Arrays, EngineFacts, HostEngine
from .requirements import NotInstalledError

#: The variables that name the folder with `node_modules`, and the program `node`.
_MODULES: Final = "STATEPORT_NODE_MODULES"
_NODE: Final = "STATEPORT_NODE"
_OPTIONS: Final = ("modules", "node")
_INSTALL: Final = "npm install stateport onnxruntime-node"
_FACTS: Final = EngineFacts(install=_INSTALL, for_speed=False)
_WORKER: Final = Path(__file__).with_name("ort_node_worker.mjs")
_OLDEST_NODE: Final = 20
#: What the worker says where a package is missing.
_ABSENT: Final = ("MODULE_NOT_FOUND", "ERR_MODULE_NOT_FOUND", "EngineUnavailable")


def open_engine(
    name: str, file: OnnxFile, threads: int | None, options: Mapping[str, object]
) -> OrtNodeEngine:
    """Loads a file; see `stateport.engines.open_engine`.

    The options are `modules`, the folder with `node_modules`, and `node`, the program.
    """
    setup = _setup(name, options)
    return OrtNodeEngine(setup, [str(file.path.resolve()), str(threads or 1)])


def facts(name: str) -> EngineFacts:  # noqa: ARG001
    """The facts about the engine."""
    return _FACTS


def status(name: str) -> Status:
    """Whether the engine works here, by importing the packages in a Node process."""
    process = _Process(_setup(name, {}), [])
    process.stop()
    return Status(name, process.version, None)


class OrtNodeEngine(HostEngine):
    """A graph in a Node process, or in several if calls run at the same time."""

    name = "ort-node"

    def __init__(self, setup: _Setup, arguments: Sequence[str]) -> None:
        self._setup = setup
        self._arguments = arguments
        first = _Process(setup, arguments)
        self.version = first.version
        # Processes without a call. A call takes one out, and puts it back if nothing failed in
        # between: after an exception from outside, the rest of an answer may still be on its way.
        self._idle = [first]
        self._end = weakref.finalize(self, _stop_all, self._idle)

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once, in Node."""
        try:
            process = self._idle.pop()
        except IndexError:
            process = _Process(self._setup, self._arguments)

        try:
            answer, arrays = process.ask(inputs, outputs)
        except BaseException:
            process.stop()
            raise

        self._idle.append(process)
        if "error" in answer:
            raise EngineError(answer["error"])
        return arrays


@dataclass(frozen=True)
class _Setup:
    """The program `node`, and the folder with `node_modules`."""

    node: str
    modules: str


class _Process:
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
            self.version: str = self._version(setup)
        except BaseException:
            self.stop()
            raise

    def ask(
        self, inputs: Arrays, outputs: Sequence[str]
    ) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """Sends the inputs; returns the answer's header, and its arrays in the outputs' order."""
        arrays = {name: np.asarray(array, order="C") for name, array in inputs.items()}
        described = []
        for name, array in arrays.items():
            described.append({"name": name, "dtype": array.dtype.name, "shape": array.shape})
        text = json.dumps({"outputs": [*outputs], "arrays": described}).encode()

        with contextlib.suppress(BrokenPipeError):  # it ended, which the answer shows
            pipe = self._pipe(self._process.stdin)
            pipe.write(len(text).to_bytes(4, "little") + text)
            for array in arrays.values():
                pipe.write(array.tobytes())
            pipe.flush()
        return self._receive()

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
        answer, _ = self._receive()
        if "error" not in answer:
            return str(answer["version"])

        if answer["code"] in _ABSENT:
            raise NotInstalledError(
                f"ort-node needs the npm packages stateport and onnxruntime-node, which are not in "
                f"{setup.modules}. Install them there: {_INSTALL}."
            )
        if answer["code"] == "OldNode":
            raise EngineUnavailable(
                f"ort-node needs Node {_OLDEST_NODE} or newer; {setup.node} is {answer['error']}. "
                f"{_NODE} names another one."
            )
        raise EngineError(answer["error"])

    def _receive(self) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        length = int.from_bytes(self._read(4), "little")
        answer: dict[str, Any] = parse_json(self._read(length).decode(), finite=False)
        arrays = []
        for entry in answer.get("arrays", []):
            array = np.empty(entry["shape"], entry["dtype"])
            array.reshape(-1).view(np.uint8)[...] = np.frombuffer(self._read(array.nbytes), "u1")
            arrays.append(array)
        return answer, arrays

    def _read(self, count: int) -> bytes:
        content = self._pipe(self._process.stdout).read(count)
        if len(content) == count:
            return content
        code = self._process.wait()
        raise EngineError(f"The Node process ended with exit code {code}{self._last_line()}.")

    def _last_line(self) -> str:
        """The last line with text on stderr, in parentheses; empty where there is none."""
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines()]
        for line in reversed(lines):
            if line:
                return f" ({line})"
        return ""

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


def _stop_all(processes: Sequence[_Process]) -> None:
    for process in processes:
        process.stop()


def _setup(name: str, options: Mapping[str, object]) -> _Setup:
    """Where Node and the packages are, by the options and the environment's variables.

    Nothing is looked for in the working directory: anybody may have put code there.
    """
    for option in sorted({*options} - {*_OPTIONS}):
        hint = did_you_mean(option, _OPTIONS)
        raise InputError(
            f"{name} has no option {option!r}; it takes {' and '.join(_OPTIONS)}.{hint}"
        )

    modules = options.get("modules") or os.environ.get(_MODULES)
    node = options.get("node") or os.environ.get(_NODE) or shutil.which("node")
    for option, value in (("modules", modules), ("node", node)):
        if value is not None and not isinstance(value, str | PathLike):
            raise InputError(f"{option} is {value!r}; a path was expected.")

    if node is None:
        raise NotInstalledError(
            f"{name} needs Node {_OLDEST_NODE} or newer, which is not on the PATH. Install it: "
            f"https://nodejs.org; or name the program: {_NODE}=PATH."
        )
    if modules is None:
        raise NotInstalledError(
            f"{name} needs the npm packages stateport and onnxruntime-node. Install them in any "
            f"folder: {_INSTALL}; and name that folder: {_MODULES}=FOLDER."
        )
    return _Setup(str(node), str(modules))
