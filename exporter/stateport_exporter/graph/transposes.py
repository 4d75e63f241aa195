"""Stored weights that are transposed in every call, or in every step of a loop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from .operators import Writer


def fold_transposes(model: ir.Model) -> None:
    """Stores such weights transposed."""
    for graph in list(all_graphs(model)):
        for node in list(graph):
            if node.op_type != "Transpose" or node.domain != "":
                continue
            (value,) = node.inputs
            weights = None if value is None else ir.convenience.get_const_tensor(value)
            if value is None or weights is None:
                continue
            axes = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
            writer = Writer(node, home=model.graph)
            name = f"{value.name}.T"
            writer.replace([writer.constant(np.transpose(weights.numpy(), axes), name)])
    RemoveUnusedNodesPass()(model)


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The graph, and the bodies of its loops and branches."""
    yield model.graph
    seen = set()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.graph is not None and node.graph is not model.graph and node.graph not in seen:
            seen.add(node.graph)
            yield node.graph
