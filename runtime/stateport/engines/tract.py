# SPDX-License-Identifier: Apache-2.0
"""tract, an engine in Rust (`tract`)."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..contract import names_of
from ..model_file.onnx_outline import OnnxFile
from ..picking import without
from . import Status
from .base import Arrays, EngineFacts, HostEngine
from .failure import failure
from .requirements import library, no_lengths, no_options

_FACTS: Final = EngineFacts(
    packages=("tract",), install="pip install 'stateport[tract]'", most_threads=1
)
#: NumPy's name of a dtype -> tract's, where tract's is not the first letter and the bits.
_DTYPES: Final = {"bool": "bool"}
#: The sets of input sizes for which a prepared graph is cached.
_MOST_SIZES: Final = 64


def open_engine(
    name: str,
    file: OnnxFile,
    threads: int | None,  # noqa: ARG001
    options: Mapping[str, object],
) -> TractEngine:
    """Loads a file; see `stateport.engines.open_engine`. There are no options."""
    no_options(name, options)
    tract = library(name, "tract", _FACTS.install)
    no_lengths(name, file)
    return TractEngine(tract, file)


def facts(name: str) -> EngineFacts:  # noqa: ARG001
    """The facts about the engine."""
    return _FACTS


def status(name: str) -> Status:
    """Whether the engine works here, by loading the library."""
    library(name, "tract", _FACTS.install)
    return Status(name, _version(), None)


class TractEngine(HostEngine):
    """A graph in tract: with open sizes, or where tract cannot do that, prepared for each size."""

    name = "tract"

    def __init__(self, tract: ModuleType, file: OnnxFile) -> None:
        self.version = _version()
        self._tract = tract
        self._path = str(file.path.resolve())
        self._inputs = names_of(file.inputs)
        self._outputs = names_of(file.outputs)
        self._graph_of_sizes = lru_cache(_MOST_SIZES)(self._prepare)
        self._open_graph = None

        try:
            model = tract.onnx().load(self._path)
        except Exception as error:  # tract has an exception class, and may raise others
            raise failure(f"tract cannot load {self._path}: {_reason(error)}", error) from error

        with suppress(Exception):
            self._open_graph = model.into_model().into_runnable()

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once; every array is new."""
        arrays = [np.ascontiguousarray(inputs[name]) for name in self._inputs]
        try:
            sizes = tuple((array.shape, array.dtype.name) for array in arrays)
            answers = (self._open_graph or self._graph_of_sizes(sizes)).run(arrays)
            named = dict(zip(self._outputs, answers, strict=True))
            return [np.array(named[name].to_numpy()) for name in outputs]
        except Exception as error:
            raise failure(f"tract failed: {_reason(error)}", error) from error

    def _prepare(self, sizes: tuple[tuple[tuple[int, ...], str], ...]) -> Any:
        """The graph for inputs of these shapes and dtypes."""
        model = self._tract.onnx().load(self._path)
        for number, (shape, dtype) in enumerate(sizes):
            model.set_input_fact(number, ",".join([*map(str, shape), _dtype(dtype)]))

        for number in range(len(self._outputs)):
            model.set_output_fact(number, None)  # the file's shapes have symbols
        return model.into_model().into_runnable()


def _dtype(name: str) -> str:
    """The name of a dtype in tract: `float32` -> `f32`."""
    return _DTYPES.get(name) or f"{name[0]}{np.dtype(name).itemsize * 8}"


def _version() -> str:
    return f"tract {importlib.metadata.version('tract')}"


def _reason(error: Exception) -> str:
    """The first and the last cause, without the trace of Rust functions behind them."""
    text = str(error).partition("Stack backtrace")[0]
    lines = [line.strip() for line in text.splitlines()]

    causes = without(lines, ("", "Caused by:"))

    first_and_last = dict.fromkeys([*causes[:1], *causes[-1:]])
    return ": ".join(first_and_last) or type(error).__name__
