# SPDX-License-Identifier: Apache-2.0
"""Truth values by And, Or and Not: ONNX Runtime has no Where of them, and ONNX no sum of them."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.fx import Graph, Node

_ATEN: Any = torch.ops.aten
_WHERE: Any = _ATEN.where
_CHOICES: Final = (_WHERE.self, _WHERE.ScalarSelf, _WHERE.ScalarOther, _WHERE.Scalar)


def write_as_logic(program: torch.export.ExportedProgram) -> None:
    """Writes choices between truth values, and their sums, as logic: `torch.where(c, a, b)`."""
    for node in [*program.graph.nodes]:
        if node.op != "call_function" or not _is_truth(node):
            continue
        with program.graph.inserting_before(node):
            logic = _as_logic(program.graph, node)
        if logic is None:
            continue
        logic.meta = dict(node.meta)
        node.replace_all_uses_with(logic)
        program.graph.erase_node(node)


def _as_logic(graph: Graph, node: Node) -> Node | None:
    """The same as logic; None where ONNX Runtime has the operator for truth values."""
    if node.target in _CHOICES:
        return _choice(graph, *node.args)
    if node.target in (_ATEN.masked_fill.Scalar, _ATEN.masked_fill.Tensor):
        values, mask, filling = node.args
        return _choice(graph, mask, filling, values)
    if node.target is _ATEN.add.Tensor:
        one, other = node.args
        return _choice(graph, one, True, other if node.kwargs.get("alpha", True) else False)
    return None


def _choice(graph: Graph, condition: Any, chosen: Any, other: Any) -> Node:
    """`chosen` where the condition holds, and `other` elsewhere; each of them may be a number."""
    negated = _call(graph, _ATEN.logical_not.default, condition)
    return _call(
        graph,
        _ATEN.logical_or.default,
        _where_it_holds(graph, condition, negated, chosen),
        _where_it_holds(graph, negated, condition, other),
    )


def _where_it_holds(graph: Graph, condition: Node, negated: Node, value: Any) -> Node:
    """A value where the condition holds, and False elsewhere."""
    if isinstance(value, Node):
        return _call(graph, _ATEN.logical_and.default, condition, value)
    if value:
        return condition
    return _call(graph, _ATEN.logical_and.default, condition, negated)


def _call(graph: Graph, operator: Any, *operands: Any) -> Node:
    """A call whose result PyTorch computes from what its operands are known to be."""
    node = graph.call_function(operator, operands)
    node.meta["val"] = operator(*(operand.meta["val"] for operand in operands))
    return node


def _is_truth(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.bool
