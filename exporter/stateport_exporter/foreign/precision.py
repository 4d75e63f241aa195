# SPDX-License-Identifier: Apache-2.0
"""The precision in which a foreign graph computes, which its bounds depend on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx_ir as ir

from stateport.precision import lowest

_NAMES: Final = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}


def precision_of(graph: ir.Graph) -> str:
    """The lowest floating-point precision of the values in a graph, branches and loops included.

    "float16" and "bfloat16"; "float32" for graphs with neither, among them those in float64.
    """
    precisions = (_NAMES.get(value.dtype, "float32") for value in _values(graph) if value.dtype)
    return lowest("float32", *precisions)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """The inputs and weights of a graph, and the results of all its nodes."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs
