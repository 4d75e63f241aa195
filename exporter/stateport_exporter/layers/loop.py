"""A loop over time in ONNX: the operator `Scan`, with one step as its body.

Source: https://onnx.ai/onnx/operators/onnx__Scan.html.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..graph.operators import Writer


def write(node: ir.Node, path: str, step: ir.Graph) -> None:
    """Replaces a captured loop by a `Scan` over its step.

    What is the same in every step is not handed in: a body sees the values around it.
    """
    states, sequences = (node.attributes[name].as_int() for name in ("states", "sequences"))
    operands = [value for value in node.inputs if value is not None]
    moving = states + sequences
    writer = Writer(node, path)
    _name_axes(step, operands, states, moving)
    for inner, outer in zip(list(step.inputs)[moving:], operands[moving:], strict=True):
        ir.convenience.replace_all_uses_with(inner, outer, replace_graph_outputs=True)
    del step.inputs[moving:]
    # The runtime wants other names inside than outside.
    prefix = f"step{node.attributes['call'].as_int()}"
    for inner in list(step.initializers.values()):
        assert inner.const_value is not None
        assert inner.name is not None
        outer = writer.constant(inner.const_value.numpy(), f"{prefix}.{inner.name}")
        ir.convenience.replace_all_uses_with(inner, outer, replace_graph_outputs=True)
        del step.initializers[inner.name]
    _give_outputs_values(step)
    for number, value in enumerate(_values(step)):
        value.name = f"{prefix}.{number}"
    for number, inner_node in enumerate(step):
        inner_node.name = f"{prefix}.node{number}"
    step.name = prefix
    results = writer.ops(
        "Scan", operands[:moving], len(node.outputs), body=step, num_scan_inputs=sequences
    )
    writer.replace(results)


def _name_axes(step: ir.Graph, operands: Sequence[ir.Value], states: int, moving: int) -> None:
    """Calls the dynamic sizes in the step what they are called outside."""
    names: dict[str, str] = {}
    for position, (inner, outer) in enumerate(zip(step.inputs, operands, strict=True)):
        is_sequence = states <= position < moving
        outside = list(outer.shape or ())[1 if is_sequence else 0 :]
        for dim, other in zip(inner.shape or (), outside, strict=True):
            if not isinstance(dim, int):
                names[str(dim.value)] = str(other if isinstance(other, int) else other.value)
    for value in _values(step):
        if value.shape is not None:
            value.shape = ir.Shape(
                dim if isinstance(dim, int) else names.get(str(dim.value)) for dim in value.shape
            )


def _give_outputs_values(step: ir.Graph) -> None:
    """An output that is no operation's result, or stands twice, gets a value of its own."""
    seen: set[ir.Value] = set(step.inputs)
    for position, value in enumerate(step.outputs):
        producer = value.producer()
        if value in seen or producer is None or producer.graph is not step:
            copy = ir.node("Identity", [value])
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            step.append(copy)
            step.outputs[position] = copy.outputs[0]
        seen.add(step.outputs[position])


def _values(step: ir.Graph) -> list[ir.Value]:
    return [*step.inputs, *(value for node in step for value in node.outputs)]
