# SPDX-License-Identifier: Apache-2.0
"""A loop over time in ONNX: the operator `Scan`, with one step as its body.

Source: https://onnx.ai/onnx/operators/onnx__Scan.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from stateport.picking import present, sure

from ..graph.dataflow import dims_of, map_dims, name_of_dim
from ..graph.operators import Writer

#: Operators whose result is their operand, given twice, of the types for which engines have one.
_OF_ITSELF: Final = {
    ir.DataType.FLOAT: "Max",
    ir.DataType.FLOAT16: "Max",
    ir.DataType.DOUBLE: "Max",
    ir.DataType.INT32: "Max",
    ir.DataType.INT64: "Max",
    ir.DataType.INT8: "BitwiseOr",
    ir.DataType.INT16: "BitwiseOr",
    ir.DataType.UINT8: "BitwiseOr",
    ir.DataType.UINT16: "BitwiseOr",
    ir.DataType.UINT32: "BitwiseOr",
    ir.DataType.UINT64: "BitwiseOr",
    ir.DataType.BOOL: "Or",
}


def write(node: ir.Node, path: str, step: ir.Graph) -> None:
    """Replaces a captured loop by a `Scan` over its step.

    Values that are the same in every step are not operands: a body sees the values around it.

    Args:
        node: the captured loop.
        path: the path of the module that loops.
        step: the step's graph, which becomes the body.
    """
    states = node.attributes["states"].as_int()
    sequences = node.attributes["sequences"].as_int()
    operands = present(node.inputs)
    moving = states + sequences
    writer = Writer(node, path)

    _rename_axes(step, operands, states, moving)
    _use_outer_values(step, operands, moving)
    # ONNX Runtime refuses names inside a body that the graph around it has too.
    prefix = f"step{node.attributes['call'].as_int()}"
    _move_weights_out(step, writer, prefix)
    _compute_states_from_slices(step, states)
    _give_outputs_own_values(step)
    _rename_values(step, prefix)

    results = writer.ops(
        "Scan", operands[:moving], len(node.outputs), body=step, num_scan_inputs=sequences
    )
    writer.replace(results)


def _rename_axes(step: ir.Graph, operands: Sequence[ir.Value], states: int, moving: int) -> None:
    """Gives the dynamic sizes in the step the names that they have outside."""
    names: dict[str, int | ir.SymbolicDim] = {}
    for position, (inner, outer) in enumerate(zip(step.inputs, operands, strict=True)):
        is_sequence = states <= position < moving
        outer_dims = dims_of(outer)
        if is_sequence:
            outer_dims = outer_dims[1:]

        for inner_dim, outer_dim in zip(dims_of(inner), outer_dims, strict=True):
            name = name_of_dim(inner_dim)
            if name is not None:
                names[name] = outer_dim

    def renamed(dim: int | ir.SymbolicDim) -> int | ir.SymbolicDim | None:
        return dim if isinstance(dim, int) else names.get(str(dim.value))

    map_dims(renamed, _values(step))


def _use_outer_values(step: ir.Graph, operands: Sequence[ir.Value], moving: int) -> None:
    """Replaces the step's inputs that are the same in every step by the values outside."""
    invariants = list(step.inputs)[moving:]
    for inner, outer in zip(invariants, operands[moving:], strict=True):
        ir.convenience.replace_all_uses_with(inner, outer, replace_graph_outputs=True)
    del step.inputs[moving:]


def _move_weights_out(step: ir.Graph, writer: Writer, prefix: str) -> None:
    """Moves the step's weights into the graph around it."""
    for inner in list(step.initializers.values()):
        outer = writer.constant(sure(inner.const_value).numpy(), f"{prefix}.{inner.name}")
        ir.convenience.replace_all_uses_with(inner, outer, replace_graph_outputs=True)
        del step.initializers[sure(inner.name)]


def _compute_states_from_slices(step: ir.Graph, states: int) -> None:
    """Makes each state that takes over a slice of a sequence the result of an operator.

    OpenVINO 2026.4 gives such a state the memory of the slice, also through an `Identity`: the
    next step then reads its own slice as its former state. The larger of a value and itself is
    that value. ONNX Runtime has no `Max` for small integers.
    """
    slices = {*list(step.inputs)[states:]}
    for position, value in enumerate(step.outputs[:states]):
        source = _copied_from(value)
        operator = _OF_ITSELF.get(sure(source.dtype))
        if source in slices and operator is not None:
            held = ir.node(operator, [source, source])
            held.outputs[0].shape, held.outputs[0].type = source.shape, source.type
            step.append(held)
            step.outputs[position] = held.outputs[0]


def _copied_from(value: ir.Value) -> ir.Value:
    """The value that a value is a copy of, or the value itself."""
    producer = value.producer()
    while producer is not None and producer.op_type == "Identity":
        value = sure(producer.inputs[0])
        producer = value.producer()
    return value


def _give_outputs_own_values(step: ir.Graph) -> None:
    """Copies outputs that no operation of the step makes, and outputs that are returned twice."""
    seen: set[ir.Value] = set(step.inputs)
    for position, value in enumerate(step.outputs):
        producer = value.producer()
        is_made_here = producer is not None and producer.graph is step

        if value in seen or not is_made_here:
            copy = ir.node("Identity", [value])
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            step.append(copy)
            step.outputs[position] = copy.outputs[0]
        seen.add(step.outputs[position])


def _rename_values(step: ir.Graph, prefix: str) -> None:
    for number, value in enumerate(_values(step)):
        value.name = f"{prefix}.{number}"
    for number, node in enumerate(step):
        node.name = f"{prefix}.node{number}"
    step.name = prefix


def _values(step: ir.Graph) -> list[ir.Value]:
    return [*step.inputs, *(value for node in step for value in node.outputs)]
