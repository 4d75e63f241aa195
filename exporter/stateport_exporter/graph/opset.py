# SPDX-License-Identifier: Apache-2.0
"""Opsets newer than PyTorch's exporter writes."""

from __future__ import annotations

from typing import Final

import onnx
import onnx_ir as ir

from ..errors import ExportError

#: The newest opset to which onnxscript, which PyTorch's exporter uses, converts a graph.
NEWEST_CAPTURED: Final = 25


def raise_opset(model: ir.Model, opset: int) -> None:
    """Declares the model to be of a newer opset, if that means the same for every operator in it.

    Raises:
        ExportError: an operator has another definition there.
    """
    current = model.graph.opset_imports[""]

    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        if _defined_in(node.op_type, current) != _defined_in(node.op_type, opset):
            raise ExportError(
                f"Opset {opset} defines {node.op_type} differently from opset {current}, the "
                f"newest that the exporter converts to. Use opset {current} or older."
            )

    model.graph.opset_imports[""] = opset


def lower_ir_version(model: ir.Model) -> None:
    """Declares the lowest IR version that the model's opset needs, so that older runtimes read it.

    Source: the table of versions in onnx.helper. A model that declares a lower one keeps it.
    """
    opset = model.graph.opset_imports[""]
    # A row is: release of ONNX, IR version, opset of ai.onnx, ...
    needed = min(row[1] for row in onnx.helper.VERSION_TABLE if row[2] >= opset)
    model.ir_version = min(model.ir_version, needed)


def _defined_in(operator: str, opset: int) -> int:
    """The opset in which an operator got the definition that is valid at `opset`."""
    return int(onnx.defs.get_schema(operator, opset, "").since_version)
