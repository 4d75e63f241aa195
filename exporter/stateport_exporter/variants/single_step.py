# SPDX-License-Identifier: Apache-2.0
"""A model's single step: the same network where time is 1, without recurrent operators.

The kernels of ONNX's recurrent operators prepare for a sequence, which costs time when there is one
step. Written as products and activations, a step of a small network in a large batch takes less
than half as long.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..errors import ExportError
from ..graph.cells import OPERATORS, read, step
from ..graph.dataflow import dims_of, forget_shapes
from ..graph.inferred_shapes import infer_shapes
from ..graph.operators import Writer
from ..graph.transposes import fold_transposes
from ..graph.unused import remove_unused
from .operands import required_operand

_MOVERS = ("Transpose", "Squeeze", "Unsqueeze", "Reshape")


def single_step(model: ir.Model, *, per_gate: bool) -> None:
    """Turns a model into its single step, in place.

    Args:
        model: the model.
        per_gate: write a product for each gate, which is faster unless products are quantised.

    Raises:
        ExportError: a part cannot be written as one step.
    """
    graph = model.graph
    _fix_shapes(graph)
    infer_shapes(model)
    for node in list(graph):
        _check_one_step(node)
        if node.op_type == "Scan" and node.domain == "":
            _inline_body(node)
        elif node.op_type in OPERATORS and node.domain == "":
            _write_out_step(node, per_gate=per_gate)

    fold_transposes(model)
    infer_shapes(model)
    _merge_moves(graph)
    remove_unused(model)


def write_out_single_steps(model: ir.Model) -> None:
    """Writes the layers and loops that run over one step in plain operators, in place.

    A network that takes four samples at a time may have a layer over one frame of four. The shapes
    of all values are known.

    Raises:
        ExportError: a layer or loop over one step cannot be written so.
    """
    for node in list(model.graph):
        if _steps_of(node) != 1:
            continue
        if node.op_type == "Scan":
            _inline_body(node)
        else:
            _write_out_step(node, per_gate=False)
    remove_unused(model)


def _check_one_step(node: ir.Node) -> None:
    """Refuses a layer over another axis than time, as of a dual-path network."""
    steps = _steps_of(node)
    if steps is not None and steps > 1:
        raise ExportError(
            f"The {node.op_type} {node.name!r} runs over {steps} elements of each step of time."
        )


def _steps_of(node: ir.Node) -> int | None:
    """The number of steps that a layer or loop runs over; None if unknown, or for other nodes."""
    if node.domain != "":
        return None
    if node.op_type in OPERATORS:
        sequence = required_operand(node, 0)
    elif node.op_type == "Scan":
        states = len(node.inputs) - node.attributes["num_scan_inputs"].as_int()
        sequence = required_operand(node, states)
    else:
        return None

    sizes = _known_sizes(sequence)
    return sizes[0] if sizes and sizes[0] > 0 else None


def _fix_shapes(graph: ir.Graph) -> None:
    """Sets time to 1 in inputs and outputs, and forgets the shapes of all other values."""
    for value in (*graph.inputs, *graph.outputs):
        value.shape = _shape_of_one_step(value)
    forget_shapes(graph)


def _shape_of_one_step(value: ir.Value) -> ir.Shape:
    dims: list[int | ir.SymbolicDim] = []
    for dim in dims_of(value):
        name = "" if isinstance(dim, int) else str(dim.value)

        if "time" in name and name != "time":
            raise ExportError(
                f"{value.name!r} has an axis of {name}, whose size for one step is not known."
            )
        dims.append(1 if name == "time" else dim)
    return ir.Shape(dims)


def _write_out_step(node: ir.Node, *, per_gate: bool) -> None:
    """Writes one step of a recurrent operator in plain operators."""
    cell = read(node)
    if isinstance(cell, str):
        raise ExportError(
            f"The {node.op_type} {node.name!r} cannot be written as a single step: {cell}."
        )

    writer = Writer(node)
    axis = writer.ints([0])
    x = writer.op("Squeeze", [required_operand(node, 0), axis])
    nexts = step(writer, cell, x, cell.states, per_gate=per_gate)
    y = writer.op("Unsqueeze", [nexts[0], axis])
    writer.replace([y, *nexts][: len(node.outputs)])


def _inline_body(node: ir.Node) -> None:
    """Puts the body of a `Scan` in its place, which is right for one step."""
    body = node.attributes["body"].as_graph()
    states = len(node.inputs) - node.attributes["num_scan_inputs"].as_int()
    if {*node.attributes} - {"body", "num_scan_inputs"}:
        raise ExportError(f"The Scan {node.name!r} does not run along its first axes.")

    writer = Writer(node)
    axis = writer.ints([0])
    operands = [required_operand(node, position) for position in range(len(node.inputs))]
    slices = [writer.op("Squeeze", [sequence, axis]) for sequence in operands[states:]]
    for inner, value in zip(body.inputs, [*operands[:states], *slices], strict=True):
        ir.convenience.replace_all_uses_with(inner, value, replace_graph_outputs=True)

    results = list(body.outputs)
    body.outputs.clear()
    inner_nodes = list(body)
    body.remove(inner_nodes)
    writer.put(inner_nodes)

    stacked = [writer.op("Unsqueeze", [value, axis]) for value in results[states:]]
    writer.replace([*results[:states], *stacked])


def _merge_moves(graph: ir.Graph) -> None:
    """Writes chains of operators that only move axes of size 1 as one `Reshape`, or as nothing.

    A `Transpose` would copy, and each operator takes its time.
    """
    roots: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type not in _MOVERS or node.domain != "" or not _keeps_order(node):
            continue

        value = node.outputs[0]
        first = required_operand(node, 0)
        shape = _known_sizes(value)
        if shape is None or shape.count(-1) > 1:
            continue

        root = roots[value] = roots.get(first, first)
        is_redundant = shape == _known_sizes(root) and not value.is_graph_output()
        if is_redundant:
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
    sizes = _known_sizes(required_operand(node, 0))
    if sizes is None:
        return False

    moved = []
    for axis in node.attributes["perm"].as_ints():
        if sizes[axis] != 1:
            moved.append(axis)
    return moved == sorted(moved)


def _known_sizes(value: ir.Value) -> Sequence[int] | None:
    """The shape, with -1 for unknown sizes; None if the number of axes is unknown."""
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) else -1 for dim in value.shape]
