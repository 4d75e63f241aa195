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

from ..model_file.onnx_outline import OnnxFile
from . import Status
from .base import Arrays, HostEngine
from .failure import failure
from .requirements import library, no_lengths, no_options, one_thread

#: What tract calls a dtype -> where it differs from its kind and bits.
_DTYPES: Final = {"bool": "bool"}
#: So many sets of input sizes are kept prepared.
_SHAPES: Final = 64


def open_engine(
    name: str,
    file: OnnxFile,
    threads: int | None,
    options: Mapping[str, object],
) -> TractEngine:
    """Loads a file; see `stateport.engines.open_engine`. There are no options."""
    no_options(name, options)
    one_thread(name, threads)
    tract = library(name, "tract", "tract")
    no_lengths(name, file)
    return TractEngine(tract, file)


def status(name: str) -> Status:
    """Whether the engine works here, by loading the library."""
    library(name, "tract", "tract")
    return Status(name, _version(), None)


class TractEngine(HostEngine):
    """A graph in tract: with its sizes left open, or where tract cannot, once for each sizes."""

    name = "tract"

    def __init__(self, tract: ModuleType, file: OnnxFile) -> None:
        self.version = _version()
        self._tract = tract
        self._path = str(file.path.resolve())
        self._inputs = [spec.name for spec in file.inputs]
        self._outputs = [spec.name for spec in file.outputs]
        self._fixed = lru_cache(_SHAPES)(self._prepare)
        self._open = None
        try:
            model = tract.onnx().load(self._path)
        except Exception as error:  # its own class, and no promise that it is the only one
            raise failure(f"tract cannot load {self._path}: {_reason(error)}", error) from error
        with suppress(Exception):
            self._open = model.into_model().into_runnable()

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once; every array is new."""
        arrays = [np.ascontiguousarray(inputs[name]) for name in self._inputs]
        try:
            sizes = tuple((array.shape, array.dtype.name) for array in arrays)
            answers = (self._open or self._fixed(sizes)).run(arrays)
            named = dict(zip(self._outputs, answers, strict=True))
            return [np.array(named[name].to_numpy()) for name in outputs]
        except Exception as error:
            raise failure(f"tract failed: {_reason(error)}", error) from error

    def _prepare(self, facts: tuple[tuple[tuple[int, ...], str], ...]) -> Any:
        model = self._tract.onnx().load(self._path)
        for number, (shape, dtype) in enumerate(facts):
            model.set_input_fact(number, ",".join([*map(str, shape), _dtype(dtype)]))
        for number in range(len(self._outputs)):
            model.set_output_fact(number, None)  # what the file says has symbols
        return model.into_model().into_runnable()


def _dtype(name: str) -> str:
    """`float32` -> `f32`."""
    return _DTYPES.get(name) or f"{name[0]}{np.dtype(name).itemsize * 8}"


def _version() -> str:
    return f"tract {importlib.metadata.version('tract')}"


def _reason(error: Exception) -> str:
    """The first and the last cause, without the trace of Rust functions behind them."""
    text = str(error).partition("Stack backtrace")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if line != "Caused by:"]
    return ": ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or type(error).__name__
