# SPDX-License-Identifier: Apache-2.0
"""The shapes of all values of a graph, by ONNX's own inference."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

#: Operators whose results are no arrays: https://onnx.ai/onnx/operators/
_NO_ARRAYS: Final = frozenset(
    {"Optional", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"}
    | {"SequenceMap", "SplitToSequence"}
)


def infer_shapes(model: ir.Model) -> None:
    """Infers shapes and dtypes, in place.

    onnx-ir gives sequences and optional values the type of their elements. Such a file would not be
    valid, so they are left without a type.
    """
    ShapeInferencePass()(model)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type in _NO_ARRAYS:
            for value in node.outputs:
                value.type, value.shape = None, None
