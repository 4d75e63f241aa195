# SPDX-License-Identifier: Apache-2.0
"""Graphs inside of nodes: taking a state into a branch or a loop's body, and out again."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..graph.dataflow import origin, size_of
from .constants import integer_of


@dataclass(frozen=True)
class Level:
    """A graph in a node: a branch of an `If`, or the body of a loop."""

    holder: ir.Node
    body: ir.Graph


def iterations_of(level: Level) -> int | None:
    """How often a loop iterates, 0 for a branch; None where the file does not fix the number."""
    if level.holder.op_type == "If":
        return 0
    if level.holder.op_type == "Scan":
        return _scan_length(level.holder)
    if level.holder.op_type == "Loop":
        return _loop_length(level)
    return None


def _scan_length(scan: ir.Node) -> int | None:
    count = scan.attributes["num_scan_inputs"].as_int()
    axes = scan.attributes.get("scan_input_axes")
    axis = axes.as_ints()[0] if axes is not None else 0

    return size_of(scan.inputs[len(scan.inputs) - count], axis)


def _loop_length(level: Level) -> int | None:
    """The maximum number of iterations, if both conditions are always true."""
    limit = level.holder.inputs[0]
    start_condition = level.holder.inputs[1]
    starts = start_condition is None or integer_of(start_condition) == 1

    # Most bodies pass on the condition that they take.
    condition = origin(level.body.outputs[0])
    goes_on = condition is level.body.inputs[1] or integer_of(condition) == 1
    if starts and goes_on:
        return integer_of(limit)
    return None


def enter_level(level: Level, value: ir.Value, name: str, dtype: ir.DataType) -> ir.Value:
    """The state in a level.

    Args:
        level: the level.
        value: the state outside of it; for a loop, with an entry for each iteration in front.
        name: the name of a new input of a body.
        dtype: the state's.
    """
    if level.holder.op_type == "If":
        return value
    if level.holder.op_type == "Scan":
        return _add_scan_input(level, value, name, dtype)

    # A Loop takes its part of the state by the number of the iteration.
    node = ir.node("Gather", [value, level.body.inputs[0]], {"axis": 0})
    node.outputs[0].dtype = dtype
    level.body.insert_before(level.body[0], node)
    return node.outputs[0]


def _add_scan_input(level: Level, value: ir.Value, name: str, dtype: ir.DataType) -> ir.Value:
    scan = level.holder
    step = ir.Value(name=name, type=ir.TensorType(dtype))
    level.body.inputs.append(step)
    scan.resize_inputs(len(scan.inputs) + 1)
    scan.replace_input_with(len(scan.inputs) - 1, value)

    count = scan.attributes["num_scan_inputs"].as_int()
    scan.attributes["num_scan_inputs"] = ir.AttrInt64("num_scan_inputs", count + 1)
    _append_default(scan, "scan_input_axes")
    _append_default(scan, "scan_input_directions")
    return step


def leave_level(level: Level, value: ir.Value, before: ir.Value) -> ir.Value:
    """The next state outside of a level.

    Args:
        level: the level.
        value: the next state inside of it.
        before: the state outside of it, which the other branch of an `If` passes on.
    """
    holder = level.holder
    if value.is_graph_output():
        value = _copy_value(level.body, value)
    level.body.outputs.append(value)

    if holder.op_type == "If":
        _pass_through_other_branch(level, before)
    elif holder.op_type == "Scan":
        _append_default(holder, "scan_output_axes")
        _append_default(holder, "scan_output_directions")

    holder.resize_outputs(len(holder.outputs) + 1)
    return holder.outputs[-1]


def _pass_through_other_branch(level: Level, value: ir.Value) -> None:
    for attribute in level.holder.attributes.values():
        branch = attribute.as_graph()
        if branch is not level.body:
            branch.outputs.append(_copy_value(branch, value))


def _copy_value(graph: ir.Graph, value: ir.Value) -> ir.Value:
    node = ir.node("Identity", [value])
    node.outputs[0].type = value.type
    graph.append(node)
    return node.outputs[0]


def _append_default(scan: ir.Node, name: str) -> None:
    """Adds one more scanned sequence to an attribute that lists them, if the node has it."""
    if name in scan.attributes:
        numbers = [*scan.attributes[name].as_ints(), 0]
        scan.attributes[name] = ir.AttrInt64s(name, numbers)
