# SPDX-License-Identifier: Apache-2.0
"""The precision in which a foreign graph computes, which its bounds depend on.

A file that a quantiser wrote rounds values to integers in each call. How it rounds depends on all
values of a call, so that chunks are not exactly parts of the whole, and a call in float64 is not
exactly one in float32. Such a file is judged as int8: by the ratio of signal to noise.
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from stateport.contract import PRECISION_KEY
from stateport.precision import lowest

from ..graph.dataflow import all_values

_NAMES: Final = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}
#: Operators that round their operands to integers, of ONNX and of ONNX Runtime.
_ROUNDING: Final = frozenset(
    {"DynamicQuantizeLSTM", "DynamicQuantizeLinear", "DynamicQuantizeMatMul"}
    | {"QAttention", "QGemm", "QLinearAdd", "QLinearConv", "QLinearMatMul", "QLinearMul"}
    | {"QuantizeLinear"}
)


def declare_precision(model: ir.Model) -> str:
    """Writes the precision of a graph into its metadata, and returns it.

    A lower precision that the metadata has already stays there: a quantiser of this project says
    "int4", which the operators do not show.
    """
    declared = model.metadata_props.get(PRECISION_KEY, "float32")
    precision = lowest(precision_of(model.graph), declared)
    if precision != "float32":
        model.metadata_props[PRECISION_KEY] = precision
    return precision


def precision_of(graph: ir.Graph) -> str:
    """The precision of a graph, branches and loops included.

    "int8" if an operator rounds values to integers. Otherwise the lowest floating-point precision
    of its values: "float16" and "bfloat16"; "float32" for graphs with neither, among them those in
    float64.
    """
    rounds = any(node.op_type in _ROUNDING for node in ir.traversal.RecursiveGraphIterator(graph))
    if rounds:
        return "int8"

    values = (*graph.initializers.values(), *all_values(graph))
    precisions = (_NAMES.get(value.dtype, "float32") for value in values if value.dtype)
    return lowest("float32", *precisions)
