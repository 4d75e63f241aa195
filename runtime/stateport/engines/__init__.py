# SPDX-License-Identifier: Apache-2.0
"""The engines that can execute a graph, by name.

Another distribution adds an engine by an entry point in the group `stateport.engines`; see
docs/engines.md.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from ..axes import is_count
from ..errors import EngineError, EngineUnavailable, InputError, in_words
from ..model_file.onnx_outline import OnnxFile
from ..suggestions import did_you_mean
from .base import Arrays, Buffer, Buffers, Engine, EngineFacts, HostEngine
from .requirements import NotInstalledError

__all__ = [
    "Arrays",
    "Buffer",
    "Buffers",
    "Engine",
    "EngineFacts",
    "HostEngine",
    "Status",
    "engine_names",
    "facts",
    "open_engine",
    "status",
]

GROUP: Final = "stateport.engines"

#: The most threads that a caller may ask for. Engines start any number, which can exhaust memory.
MOST_THREADS: Final = 1024

# Name -> the module here that has `open_engine`, `status` and `facts`. Modules are imported on
# demand, so that `import stateport` loads no engine.
_BUILT_IN: Final = {
    "ort-cpu": "ort",
    "ort-cuda": "ort",
    "openvino": "openvino",
    "tract": "tract",
    "onnx-reference": "onnx_reference",
    "ort-node": "ort_node",
    "ort-web": "ort_web",
    "c": "compiled_c",
}


@dataclass(frozen=True)
class Status:
    """Whether an engine works on this machine.

    Attributes:
        name: the engine's name.
        version: the name and version of its library; None where it does not work.
        problem: why it does not work and what to do; None where it works.
        installed: whether its library is installed, although it may not work.
    """

    name: str
    version: str | None
    problem: str | None
    installed: bool = True


def engine_names() -> tuple[str, ...]:
    """The names of all engines, installed or not: those built in, then other distributions'."""
    return (*_BUILT_IN, *sorted(_plugins().keys() - _BUILT_IN.keys()))


def open_engine(
    name: str,
    file: OnnxFile,
    threads: int | None,
    options: Mapping[str, object],
) -> Engine:
    """Loads a file into the engine of that name.

    Args:
        name: the engine's name.
        file: the file.
        threads: how many threads a call may use; None for the engine's default.
        options: the engine's own options.

    Raises:
        EngineUnavailable: the name is unknown, or the engine does not work here.
        EngineError: the engine refuses the file.
        InputError: the engine has no such option, or cannot use as many threads.
    """
    check_threads(threads)
    module = _engine_module(name)
    most = facts(name).most_threads
    if threads is not None and most is not None and threads > most:
        limit = "one thread" if most == 1 else f"at most {most} threads"
        raise InputError(f"{name} computes in {limit}; threads={threads} was asked for.")

    engine: Engine = module.open_engine(name, file, threads, options)
    return engine


def check_threads(threads: object) -> None:
    """Refuses what is no number of threads.

    Raises:
        InputError: it is neither None nor a whole number from 1 to `MOST_THREADS`.
    """
    if threads is None:
        return

    if not is_count(threads, 1, MOST_THREADS):
        raise InputError(
            f"threads is {threads!r}; a whole number from 1 to {MOST_THREADS} was expected."
        )


def status(name: str) -> Status:
    """Whether an engine works here, as `stateport doctor` shows it.

    Raises:
        EngineUnavailable: the name is unknown. For a known engine it never raises.
    """
    try:
        result: Status = _engine_module(name).status(name)
    except EngineError as error:
        if name not in engine_names():
            raise
        installed = not isinstance(error, NotInstalledError)
        return Status(name, None, str(error), installed)
    return result


def facts(name: str) -> EngineFacts:
    """The facts about an engine, whether it works here or not.

    They are the defaults of `EngineFacts` if the engine's module does not define `facts`, or cannot
    be loaded.
    """
    engine_facts = EngineFacts()
    with contextlib.suppress(EngineUnavailable):
        module = _engine_module(name)
        if hasattr(module, "facts"):
            engine_facts = module.facts(name)

    if engine_facts.packages:
        return engine_facts
    return replace(engine_facts, packages=_distribution_of(name))


def _distribution_of(name: str) -> tuple[str, ...]:
    """The name of the distribution that adds an engine; empty where it is unknown."""
    entry = _plugins().get(name)
    if entry is None or entry.dist is None:
        return ()
    return (entry.dist.name,)


def _engine_module(name: object) -> Any:
    """The module with an engine's `open_engine` and `status`, and maybe `facts`."""
    if not isinstance(name, str):
        raise InputError(
            f"The engine is a {type(name).__qualname__}; its name was expected, one of "
            f"{', '.join(engine_names())}."
        )

    if name in _BUILT_IN:
        return importlib.import_module(f".{_BUILT_IN[name]}", __name__)

    entry = _plugins().get(name)
    if entry is None:
        raise EngineUnavailable(
            f"There is no engine {name!r}; known are {', '.join(engine_names())}."
            f"{did_you_mean(name, engine_names())}"
        )

    try:
        return entry.load()
    except Exception as error:  # another distribution's code may raise anything
        raise EngineUnavailable(
            f"The engine {name!r} ({entry.value}) cannot be loaded: {in_words(error)}."
        ) from error


def _plugins() -> dict[str, EntryPoint]:
    """The entry points of other distributions' engines, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}
