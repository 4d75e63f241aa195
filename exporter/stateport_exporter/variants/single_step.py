"""A model's single step: the same network where time is 1, without recurrent operators.

For one step ONNX's recurrent operators are a detour: their kernels prepare for a sequence. Written
as products and activations a step of a small network in a large batch takes less than half as long.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from ..errors import ExportError
from ..graph.cells import OPERATORS, read, step
from ..graph.operators import Writer
from ..graph.transposes import fold_transposes

_MOVERS = ("Transpose", "Squeeze", "Unsqueeze", "Reshape")


def single_step(model: ir.Model, *, per_gate: bool) -> None:
    """Turns a model into its single step, in place.

    `per_gate` makes a product for each gate, which is quicker unless products are to be quantised.

    Raises:
        ExportError: it has a part that cannot be written as one step, and which.
    """
    graph = model.graph
    for value in (*graph.inputs, *graph.outputs):
        value.shape = _at_one(value)
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    for node in list(graph):
        if node.op_type == "Scan" and node.domain == "":
            _inline(node)
        elif node.op_type in OPERATORS and node.domain == "":
            _write_out(node, per_gate=per_gate)
    fold_transposes(model)
    ShapeInferencePass()(model)
    _without_moves(graph)
    RemoveUnusedNodesPass()(model)


def _at_one(value: ir.Value) -> ir.Shape:
    dims = []
    for dim in value.shape or ():
        name = None if isinstance(dim, int) else str(dim.value)
        if name != "time" and name is not None and "time" in name:
            raise ExportError(
                f"{value.name!r} has an axis of {name}, whose size for one step is not known."
            )
        dims.append(1 if name == "time" else dim)
    return ir.Shape(dims)


def _write_out(node: ir.Node, *, per_gate: bool) -> None:
    cell = read(node)
    if isinstance(cell, str):
        raise ExportError(f"The {node.op_type} {node.name!r} is no single step: {cell}.")
    writer = Writer(node)
    x = node.inputs[0]
    assert x is not None
    axis = writer.ints([0])
    nexts = step(writer, cell, writer.op("Squeeze", [x, axis]), cell.states, per_gate=per_gate)
    y = writer.op("Unsqueeze", [nexts[0], axis])
    writer.replace([y, *nexts][: len(node.outputs)])


def _inline(node: ir.Node) -> None:
    """A loop of one step is its body."""
    body = node.attributes["body"].as_graph()
    count = node.attributes["num_scan_inputs"].as_int()
    if {*node.attributes} - {"body", "num_scan_inputs"}:
        raise ExportError(f"The Scan {node.name!r} does not run along its first axes.")
    writer = Writer(node)
    states = len(node.inputs) - count
    axis = writer.ints([0])
    for position, (inner, outer) in enumerate(zip(body.inputs, node.inputs, strict=True)):
        assert outer is not None
        value = outer if position < states else writer.op("Squeeze", [outer, axis])
        ir.convenience.replace_all_uses_with(inner, value, replace_graph_outputs=True)
    results = list(body.outputs)
    body.outputs.clear()
    inner_nodes = list(body)
    body.remove(inner_nodes)
    writer.put(inner_nodes)
    writer.replace(
        [
            *results[:states],
            *(writer.op("Unsqueeze", [value, axis]) for value in results[states:]),
        ]
    )


def _without_moves(graph: ir.Graph) -> None:
    """Chains of operators that only move axes of size 1 become one `Reshape`, or none.

    A `Transpose` would copy, and each operator takes its time.
    """
    roots: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type not in _MOVERS or node.domain != "" or not _keeps_order(node):
            continue
        value, first = node.outputs[0], node.inputs[0]
        assert first is not None
        shape = _sizes(value)
        if shape is None or shape.count(-1) > 1:
            continue
        root = roots[value] = roots.get(first, first)
        if shape == _sizes(root) and not value.is_graph_output():
            ir.convenience.replace_all_uses_with(value, root)
            continue
        writer = Writer(node)
        reshaped = writer.op("Reshape", [root, writer.ints(shape)])
        writer.replace([reshaped])
        roots[reshaped] = root


def _keeps_order(node: ir.Node) -> bool:
    """Whether the operator leaves the elements in their order."""
    if node.op_type != "Transpose":
        return True
    sizes = None if node.inputs[0] is None else _sizes(node.inputs[0])
    if sizes is None:
        return False
    moved = [axis for axis in node.attributes["perm"].as_ints() if sizes[axis] != 1]
    return moved == sorted(moved)


def _sizes(value: ir.Value) -> Sequence[int] | None:
    """The shape, with -1 for sizes that are not known; None where even their number is not."""
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) else -1 for dim in value.shape]
