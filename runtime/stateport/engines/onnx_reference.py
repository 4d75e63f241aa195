# SPDX-License-Identifier: Apache-2.0
"""The reference implementation in the `onnx` package, in NumPy (`onnx-reference`).

It is slow, and shares no kernels with any other engine: it defines what the operators mean.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..model_file.onnx_outline import OnnxFile
from . import Status
from .base import Arrays, EngineFacts, HostEngine
from .failure import failure
from .requirements import library, no_lengths, no_options

_FACTS: Final = EngineFacts(
    packages=("onnx",),
    install="pip install 'stateport[onnx-reference]'",
    most_threads=1,
    for_speed=False,
)


def open_engine(
    name: str,
    file: OnnxFile,
    threads: int | None,  # noqa: ARG001
    options: Mapping[str, object],
) -> OnnxReferenceEngine:
    """Loads a file; see `stateport.engines.open_engine`. There are no options."""
    no_options(name, options)
    onnx = _onnx(name)
    no_lengths(name, file)

    try:
        evaluator = onnx.reference.ReferenceEvaluator(str(file.path.resolve()))
    except Exception as error:  # a graph may make it fail in any way
        raise failure(
            f"onnx's reference cannot load {file.path}: {_reason(error)}", error
        ) from error
    return OnnxReferenceEngine(onnx, evaluator)


def facts(name: str) -> EngineFacts:  # noqa: ARG001
    """The facts about the engine."""
    return _FACTS


def status(name: str) -> Status:
    """Whether the engine works here, by loading the library."""
    return Status(name, f"onnx {_onnx(name).__version__}", None)


class OnnxReferenceEngine(HostEngine):
    """A graph in onnx's `ReferenceEvaluator`."""

    name = "onnx-reference"

    def __init__(self, onnx: ModuleType, evaluator: Any) -> None:
        self.version = f"onnx {onnx.__version__}"
        self._evaluator = evaluator

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once."""
        try:
            with np.errstate(all="ignore"):
                answers = self._evaluator.run([*outputs], {**inputs})
        except Exception as error:
            raise failure(f"onnx's reference failed: {_reason(error)}", error) from error
        # Copied, because an output may be an input itself, or a NumPy scalar.
        return [np.array(answer, order="C") for answer in answers]


def _onnx(name: str) -> ModuleType:
    library(name, "onnx.reference", _FACTS.install)
    return importlib.import_module("onnx")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
