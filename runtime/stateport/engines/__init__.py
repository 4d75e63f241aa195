"""The engines that can execute a graph, by name.

Another distribution adds one by an entry point in the group `stateport.engines`: docs/engines.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from ..errors import EngineError, EngineUnavailable, InputError, in_words
from ..model_file.onnx_outline import OnnxFile
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

#: More than any machine has use for: engines start as many threads as they are told to.
MOST_THREADS: Final = 1024

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
        InputError: an option is not one of the engine's, or there are not so many threads.
    """
    check_threads(threads)
    engine: Engine = _module(name).open_engine(name, file, threads, options)
    return engine


def check_threads(threads: object) -> None:
    """Refuses what is no number of threads.

    Raises:
        InputError: it is neither None nor a number that a machine could have of them.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MOST_THREADS):
        raise InputError(
            f"threads is {threads!r}; a whole number from 1 to {MOST_THREADS} was expected."
        )


def status(name: str) -> Status:
    """What `stateport doctor` says of an engine. Never raises for an engine that is known."""
    try:
        result: Status = _module(name).status(name)
    except EngineError as error:
        if name not in engine_names():
            raise
        return Status(name, None, str(error))
    return result


def _module(name: object) -> Any:
    if not isinstance(name, str):
        raise InputError(
            f"The engine is a {type(name).__qualname__}; its name was expected, one of "
            f"{', '.join(engine_names())}."
        )
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
