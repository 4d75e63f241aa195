"""The engines that can execute a graph, by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Final

from ..errors import EngineUnavailable
from ..onnx_file import OnnxFile
from .base import Arrays, Buffer, Buffers, Engine

__all__ = ["ENGINES", "Arrays", "Buffer", "Buffers", "Engine", "Status", "open_engine", "status"]

# Name -> the module here that has `open_engine` and `status`. Modules are imported on demand, so
# that `import stateport` loads no engine.
ENGINES: Final = {"ort-cpu": "ort", "ort-cuda": "ort", "openvino": "openvino"}


@dataclass(frozen=True)
class Status:
    """Whether an engine works on this machine: its version, or the reason why not."""

    name: str
    version: str | None
    problem: str | None


def open_engine(
    name: str,
    file: OnnxFile,
    threads: int | None,
    options: Mapping[str, object],
) -> Engine:
    """Loads a file into the engine of that name.

    Raises:
        EngineUnavailable: the name is unknown, or the engine does not work here.
        EngineError: the engine refuses the file.
    """
    engine: Engine = _module(name).open_engine(name, file, threads, options)
    return engine


def status(name: str) -> Status:
    """What `stateport doctor` says of an engine. Never raises for an engine that is known."""
    result: Status = _module(name).status(name)
    return result


def _module(name: str) -> ModuleType:
    if name not in ENGINES:
        raise EngineUnavailable(f"There is no engine {name!r}; known are {', '.join(ENGINES)}.")
    return importlib.import_module(f".{ENGINES[name]}", __name__)
