# SPDX-License-Identifier: Apache-2.0
"""Writing ONNX files, and checking that they are ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx
import onnx_ir as ir

from stateport.errors import first_line

from ..errors import InvalidModelError

#: Protocol Buffers cannot hold more than 2 GiB; beyond this, weights go to a file beside the model.
EXTERNAL_ABOVE: Final = 1_800_000_000


def save(model: ir.Model, path: Path) -> None:
    """Writes a model, as `write` does, and checks it.

    Raises:
        InvalidModelError: the model is not valid ONNX.
    """
    write(model, path)
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InvalidModelError(
            f"The new file is not valid ONNX: {first_line(error)}. Please report this, unless the "
            "file that it was made from is not valid either."
        ) from error


def write(model: ir.Model, path: Path) -> None:
    """Writes a model, with more than 2 GB of weights in `model.onnx.data` beside it.

    It is not checked: other people's files need not be what the checker wants.
    """
    is_large = _weight_bytes(model.graph) > EXTERNAL_ABOVE
    ir.save(model, path, external_data=f"{path.name}.data" if is_large else None)


def _weight_bytes(graph: ir.Graph) -> int:
    values = graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value)
