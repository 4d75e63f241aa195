# SPDX-License-Identifier: Apache-2.0
"""The logarithm of a sigmoid without the sigmoid, which engines round to zero below -18."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

_ATEN: Any = torch.ops.aten


def write_log_sigmoids(program: torch.export.ExportedProgram) -> None:
    """Writes log(sigmoid(x)) as -softplus(-x), which is exact for every x.

    PyTorch's ONNX writer has Log and Sigmoid for `F.logsigmoid`, and so gives -inf for -25.
    """
    graph = program.graph
    for node in [*graph.nodes]:
        operand = _operand(node)
        if operand is None:
            continue
        result = operand
        with graph.inserting_before(node):
            for target in (_ATEN.neg.default, _ATEN.softplus.default, _ATEN.neg.default):
                result = graph.call_function(target, (result,))
                result.meta = dict(node.meta)
        node.replace_all_uses_with(result)
        graph.erase_node(node)


def _operand(node: Node) -> Node | None:
    """The x of log(sigmoid(x)), if a node computes that."""
    if node.op != "call_function":
        return None

    source = node.args[0] if node.args else None
    if not isinstance(source, Node):
        return None
    if node.target is _ATEN.log_sigmoid.default:
        return source
    is_logarithm = node.target is _ATEN.log.default and source.target is _ATEN.sigmoid.default
    if is_logarithm and isinstance(source.args[0], Node):
        return source.args[0]
    return None
