# SPDX-License-Identifier: Apache-2.0
"""Removing what nothing reads."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from stateport.contract import INITIAL_PREFIX


def remove_unused(model: ir.Model) -> None:
    """Removes nodes and initializers that nothing reads, in place.

    The first values of states stay. No node reads them: the runtime finds them by their names.
    """
    initializers = model.graph.initializers
    first_values = []
    for name, value in initializers.items():
        if name.startswith(INITIAL_PREFIX):
            first_values.append(value)

    RemoveUnusedNodesPass()(model)
    for value in first_values:
        if value.name not in initializers:
            model.graph.register_initializer(value)
