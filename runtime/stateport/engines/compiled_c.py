# SPDX-License-Identifier: Apache-2.0
"""A network's step as C, compiled on this machine (`c`).

stateport-exporter writes the source: the runtime finds it by an entry point. A compiler makes a
library of it, which is kept in a folder of the user's cache and used again by later processes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..axes import resolve
from ..contract import ArraySpec, Contract, axis_sizes, has_time, names_of
from ..errors import EngineError, EngineUnavailable, InputError, StateportError, in_words
from ..model_file.onnx_outline import OnnxFile
from ..model_file.read_contract import read_contract
from ..suggestions import did_you_mean
from . import Status
from .base import Arrays, Buffers, EngineFacts, HostEngine
from .c_compiler import find_compiler
from .c_library import built_library, cache_folder
from .requirements import NotInstalledError

GROUP: Final = "stateport.generators"
_INSTALL: Final = "pip install 'stateport-exporter[c]'"
_FACTS: Final = EngineFacts(packages=("emx-onnx-cgen",), install=_INSTALL, most_threads=1)
_OPTIONS: Final = ("cache", "compiler", "fast")


def open_engine(
    name: str,
    file: OnnxFile,
    threads: int | None,  # noqa: ARG001
    options: Mapping[str, object],
) -> CompiledEngine:
    """Loads a file; see `stateport.engines.open_engine`.

    The options are `compiler`, the program that compiles; `cache`, the folder for libraries; and
    `fast`, whether sums may be computed in any order.
    """
    for option in sorted({*options} - {*_OPTIONS}):
        raise InputError(
            f"{name} has no option {option!r}; it takes {', '.join(_OPTIONS)}."
            f"{did_you_mean(option, _OPTIONS)}"
        )
    fast = options.get("fast", False)
    if not isinstance(fast, bool):
        raise InputError(f"fast is {fast!r}; True or False was expected.")

    contract = read_contract(file)
    generator = _generator(name)
    compiler = find_compiler(name, options.get("compiler"))
    writer = _generator_version(name, generator)
    folder = cache_folder(options.get("cache"))
    try:
        library = built_library(
            file,
            lambda: generator.library_source(file),
            writer=writer,
            compiler=compiler,
            flags=compiler.flags(fast=fast),
            folder=folder,
        )
    except EngineError:
        raise
    except StateportError as error:
        raise EngineError(f"{name} cannot run {file.path}: {error}") from error
    return CompiledEngine(contract, library, compiler.short_version)


def facts(name: str) -> EngineFacts:  # noqa: ARG001
    """The facts about the engine."""
    return _FACTS


def status(name: str) -> Status:
    """Whether the engine works here: the generator is installed, and there is a compiler."""
    _generator_version(name, _generator(name))
    return Status(name, find_compiler(name, None).short_version, None)


class CompiledEngine(HostEngine):
    """One step in a library, and calls of it for every row and step."""

    name = "c"

    def __init__(self, contract: Contract, library: Path, version: str) -> None:
        self.version = version
        self._contract = contract
        try:
            loaded = ctypes.CDLL(str(library))
            self._call = loaded.stateport_call
            self._time = ctypes.c_int64.in_dll(loaded, "stateport_time").value
        except (OSError, AttributeError, ValueError) as error:
            raise EngineError(
                f"The library {library} cannot be loaded: {in_words(error)}. Remove the file, so "
                "that it is compiled again."
            ) from error
        self._call.restype = None

        self._inputs = (*contract.inputs, *contract.state_inputs)
        self._outputs = (*contract.outputs, *contract.state_outputs)
        self._has_time = has_time(contract)
        self._without_rows = _without_rows(contract)
        self._once_per_call = _once_per_call(contract)

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs every row and step once."""
        arrays = {spec.name: np.ascontiguousarray(inputs[spec.name]) for spec in self._inputs}
        sizes = self._sizes(arrays)
        answers = {}
        for spec in self._outputs:
            answers[spec.name] = np.empty(resolve(spec.shape, sizes), spec.dtype)

        self._bound(arrays, answers, sizes)()
        return [answers[name] for name in outputs]

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        """A call of the library on these arrays."""
        arrays = [*inputs.values(), *outputs.values()]
        is_complete = {*names_of(self._outputs)} == {*outputs}
        if not is_complete or not all(array.flags.c_contiguous for array in arrays):
            return super().bind(inputs, outputs)
        return self._bound(inputs, outputs, self._sizes(inputs))

    def _sizes(self, inputs: Arrays) -> dict[str, int]:
        shapes = {spec.name: inputs[spec.name].shape for spec in self._inputs}
        return axis_sizes(self._inputs, shapes)

    def _bound(
        self, inputs: Buffers, outputs: Buffers, sizes: Mapping[str, int]
    ) -> Callable[[], None]:
        rows = sizes.get("batch", 1)
        if rows != 1 and self._without_rows is not None:
            raise EngineError(
                f"c computes one row after the other, and {self._without_rows} has no axis "
                f"'batch'; this call has {rows} rows. Use engine='ort-cpu'."
            )
        arrays = [inputs[spec.name] for spec in self._inputs]
        arrays += [outputs[spec.name] for spec in self._outputs]

        pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        call = partial(
            self._call, pointers, ctypes.c_int64(rows), ctypes.c_int64(self._steps(sizes))
        )
        call.arrays = arrays  # type: ignore[attr-defined]  # which must live as long as the call
        return call

    def _steps(self, sizes: Mapping[str, int]) -> int:
        if not self._has_time:
            return 1
        time = sizes.get("time", self._time)
        if time % self._time or not time:
            raise EngineError(
                f"c computes {self._time} entries along time in each step; this call has {time}. "
                "Make it a multiple, or use engine='ort-cpu'."
            )
        steps = time // self._time
        if steps > 1 and self._once_per_call is not None:
            raise EngineError(
                f"c computes one step after the other, and the network takes "
                f"{self._once_per_call!r} once in each call; this call has {steps} steps. Make "
                "calls of one step, or use engine='ort-cpu'."
            )
        return steps


def _without_rows(contract: Contract) -> str | None:
    """An output or state without a batch axis, where other arrays have one."""
    results: tuple[ArraySpec, ...] = (*contract.outputs, *contract.state_outputs)
    for spec in results:
        if "batch" not in spec.shape and "batch" in contract.axes:
            return spec.name
    return None


def _once_per_call(contract: Contract) -> str | None:
    """An input without a time axis, of a network that has one: what it is for a step is unknown."""
    if has_time(contract):
        for spec in contract.inputs:
            if spec.time_axis is None:
                return spec.name
    return None


def _generator(name: str) -> Any:
    """What writes the source: a module of the exporter."""
    entries = [*entry_points(group=GROUP, name="c")]
    if not entries:
        raise NotInstalledError(
            f"{name} needs stateport-exporter, which writes the C source and is not installed. "
            f"Install it: {_INSTALL}."
        )
    try:
        return entries[0].load()
    except Exception as error:  # another distribution's code may raise anything
        raise EngineUnavailable(
            f"{name}: {entries[0].value} cannot be loaded: {in_words(error)}."
        ) from error


def _generator_version(name: str, generator: Any) -> str:
    try:
        return str(generator.version())
    except StateportError as error:
        raise NotInstalledError(f"{name} needs what writes C source. {error}") from error
