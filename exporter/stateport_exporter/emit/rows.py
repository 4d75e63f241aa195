# SPDX-License-Identifier: Apache-2.0
"""Whether a network may be computed row by row, as the engine `c` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from stateport import EngineError
from stateport.contract import Contract
from stateport.engines.base import HostEngine
from stateport.errors import in_words
from stateport.mixed_rows import find_mixed_rows
from stateport.model_file.onnx_outline import OnnxFile

from ..errors import ExportError
from ..evaluation.float64 import evaluation


def check_rows(file: OnnxFile, contract: Contract) -> None:
    """Checks that no row of a batch depends on another, by evaluating the graph on two rows.

    Raises:
        ExportError: a row does, and which output shows it.
    """
    if "batch" not in contract.axes:
        return

    try:
        engine = _Evaluation(file)
    except Exception as error:  # an operator that onnx's reference lacks
        raise ExportError(
            "C computes one row after the other, and whether rows of this network depend on one "
            f"another cannot be tried: {in_words(error)}. Load the file with another engine."
        ) from error

    mixed = find_mixed_rows(contract, engine, "float32")
    if mixed is not None:
        raise ExportError(
            f"the rows of {mixed!r} depend on the other rows of the batch, as by a mean over them; "
            "C computes one row after the other. Load the file with another engine."
        )


class _Evaluation(HostEngine):
    """A file that is evaluated in float64, as an engine."""

    name = "evaluation"
    version = f"onnx {onnx.__version__}"

    def __init__(self, file: OnnxFile) -> None:
        self._evaluate = evaluation(onnx.load(str(file.path)))

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Evaluates the graph once."""
        try:
            values = self._evaluate(inputs)
        except Exception as error:  # whatever onnx's reference raises, about a size or an operator
            raise EngineError(f"The graph cannot be evaluated: {error}") from error
        return [np.asarray(values[name]) for name in outputs]
