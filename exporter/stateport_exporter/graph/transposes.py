# SPDX-License-Identifier: Apache-2.0
"""Stored weights that are transposed in every call, or in every step of a loop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from .operators import Writer
from .unused import remove_unused


def fold_transposes(model: ir.Model) -> None:
    """Stores such weights transposed, in place of the operators that transpose them."""
    for graph in list(all_graphs(model)):
        for node in list(graph):
            if node.op_type == "Transpose" and node.domain == "":
                _fold_transpose(node, model.graph)

    remove_unused(model)


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The graph, and the bodies of its loops and branches."""
    yield model.graph

    seen = {model.graph}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.graph is not None and node.graph not in seen:
            seen.add(node.graph)
            yield node.graph


def _fold_transpose(node: ir.Node, home: ir.Graph) -> None:
    """Replaces one `Transpose` of stored weights with weights in `home`."""
    (value,) = node.inputs
    if value is None:
        return
    weights = ir.convenience.get_const_tensor(value)
    if weights is None:
        return

    # Without `perm`, ONNX and NumPy both reverse the axes.
    permutation = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
    transposed = np.transpose(weights.numpy(), permutation)

    writer = Writer(node, home=home)
    writer.replace([writer.constant(transposed, f"{value.name}.T")])
