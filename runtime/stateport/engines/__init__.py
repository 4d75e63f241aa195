"""The engines that can execute a graph, by name.

Another distribution adds one by an entry point in the group `stateport.engines`: docs/engines.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from ..errors import EngineError, EngineUnavailable, in_words
from ..onnx_file import OnnxFile
from .base import Arrays, Buffer, Buffers, Engine, HostEngine

__all__ = [
    "Arrays",
    "Buffer",
    "Buffers",
    "Engine",
    "HostEngine",
    "Status",
    "engine_names",
    "open_engine",
    "status",
]

GROUP: Final = "stateport.engines"

# Name -> the module here that has `open_engine` and `status`. Modules are imported on demand, so
# that `import stateport` loads no engine.
_OWN: Final = {
    "ort-cpu": "ort",
    "ort-cuda": "ort",
    "openvino": "openvino",
    "tract": "tract",
    "onnx-reference": "onnx_reference",
}


@dataclass(frozen=True)
class Status:
    """Whether an engine works on this machine: its version, or the reason why not."""

    name: str
    version: str | None
    problem: str | None


def engine_names() -> tuple[str, ...]:
    """The names of all engines, installed or not: stateport's own, then other distributions'."""
    return (*_OWN, *sorted(_others().keys() - _OWN.keys()))


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
        InputError: an option is not one of the engine's.
    """
    engine: Engine = _module(name).open_engine(name, file, threads, options)
    return engine


def status(name: str) -> Status:
    """What `stateport doctor` says of an engine. Never raises for an engine that is known."""
    try:
        result: Status = _module(name).status(name)
    except EngineError as error:
        if name not in engine_names():
            raise
        return Status(name, None, str(error))
    return result


def _module(name: str) -> Any:
    if name in _OWN:
        return importlib.import_module(f".{_OWN[name]}", __name__)
    entry = _others().get(name)
    if entry is None:
        raise EngineUnavailable(
            f"There is no engine {name!r}; known are {', '.join(engine_names())}."
        )
    try:
        return entry.load()
    except Exception as error:  # it is somebody else's code
        raise EngineUnavailable(
            f"The engine {name!r} ({entry.value}) cannot be loaded: {in_words(error)}."
        ) from error


def _others() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
