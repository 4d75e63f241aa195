# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's own operator for linear attention, in place of a loop.

A loop over time that keeps a matrix of keys and values is a `Scan`, which runs a handful of small
operators at every step. ONNX Runtime has one operator for it, `com.microsoft.LinearAttention`.
"""

from __future__ import annotations

import math
from typing import Final

import onnx_ir as ir

from ..errors import ExportError
from ..graph.dataflow import dims_of
from ..graph.inferred_shapes import infer_shapes
from ..graph.operators import Writer
from ..graph.unused import remove_unused
from .linear_attention import Layout, LinearAttention, inner_sizes, recognise
from .operands import required_operand

#: The engines that know ONNX Runtime's own operators.
ENGINES: Final = ("ort-cpu", "ort-cuda")

_DOMAIN: Final = "com.microsoft"


def native_operators(model: ir.Model) -> tuple[str, ...]:
    """Writes loops that compute linear attention as ONNX Runtime's own operator, in place.

    Returns:
        The names of the loops that were replaced.

    Raises:
        ExportError: the model has no such loop.
    """
    infer_shapes(model)
    replaced, reasons = [], []
    for node in list(model.graph):
        if node.op_type != "Scan" or node.domain != "":
            continue

        attention = recognise(node, model.opset_imports[""])
        if isinstance(attention, str):
            reasons.append(f"the loop {node.name!r} {attention}")
            continue
        _write(node, attention)
        replaced.append(str(node.name))

    if not replaced:
        raise ExportError(
            "No loop computes linear attention, for which ONNX Runtime has an operator: "
            f"{'; '.join(reasons) or 'the file has no loops'}."
        )
    model.opset_imports[_DOMAIN] = 1
    remove_unused(model)
    return tuple(replaced)


def _write(node: ir.Node, attention: LinearAttention) -> None:
    """Writes a loop as ONNX Runtime's operator."""
    writer = Writer(node)
    layout = attention.layout
    operands: dict[str, ir.Value] = {}
    for role, position in attention.roles.items():
        sequence = required_operand(node, 1 + position)
        operands[role] = _packed(writer, sequence, layout, role)
    if "decay" in operands:
        operands["decay"] = _logarithm(writer, operands["decay"], attention.logarithm)

    state = required_operand(node, 0)
    output, present = writer.own_ops(
        "LinearAttention",
        [
            operands["query"],
            operands["key"],
            operands["value"],
            _as_matrices(writer, state, layout),
            operands.get("decay"),
            operands.get("beta"),
        ],
        2,
        update_rule=attention.rule,
        q_num_heads=layout.heads,
        kv_num_heads=layout.heads,
        scale=attention.scale,
    )

    stacked = node.outputs[1]
    inner = inner_sizes(stacked, 2) or [layout.heads * layout.values]
    unpacked = writer.op("Reshape", [output, writer.ints([0, 0, *inner])])
    steps_first = writer.op("Transpose", [unpacked], perm=_steps_and_batch(stacked))
    writer.replace([_as_state(writer, present, state, layout), steps_first])
    _undo_transposes(steps_first, unpacked)
    _clear(node.attributes["body"].as_graph())


def _clear(body: ir.Graph) -> None:
    """Empties the body of a loop that is gone, so that it uses no constant any more."""
    body.outputs.clear()
    body.remove([*body], safe=True)


def _packed(writer: Writer, sequence: ir.Value, layout: Layout, role: str) -> ir.Value:
    """A sequence (time, batch, ...) as (batch, time, width)."""
    width = math.prod(inner_sizes(sequence, 2) or [])
    packed = _batch_first(writer, sequence)
    reshape = packed.producer()
    if reshape is not None and reshape.op_type == "Reshape":
        before = required_operand(reshape, 0)
        is_packed = _names(before) == [*_names(packed)[:2], str(width)]
        packed = before if is_packed else packed
    if _names(packed)[2:] != [str(width)]:
        packed = writer.op("Reshape", [packed, writer.ints([0, 0, width])])

    is_shared = role in ("query", "key") and width != layout.heads * layout.keys
    if is_shared:
        return writer.op("Tile", [packed, writer.ints([1, 1, layout.heads])])
    return packed


def _batch_first(writer: Writer, sequence: ir.Value) -> ir.Value:
    """A sequence (time, batch, ...) as (batch, time, ...)."""
    producer = sequence.producer()
    if producer is not None and _changes_steps_and_batch(producer):
        return required_operand(producer, 0)
    return writer.op("Transpose", [sequence], perm=_steps_and_batch(sequence))


def _names(value: ir.Value) -> list[str]:
    """The sizes of all axes as text: numbers, or names; none where the axes are not known."""
    return [] if value.shape is None else [*map(str, value.shape)]


def _undo_transposes(steps_first: ir.Value, batch_first: ir.Value) -> None:
    """Lets what changes steps and batch over again take the value from before."""
    for user, _ in tuple(steps_first.uses()):
        result = user.outputs[0]
        if _changes_steps_and_batch(user) and not result.is_graph_output():
            ir.convenience.replace_all_uses_with(result, batch_first)


def _changes_steps_and_batch(node: ir.Node) -> bool:
    """Whether a node changes the first two axes over, and no others."""
    if node.op_type != "Transpose" or node.domain != "":
        return False
    perm = node.attributes["perm"].as_ints()
    return [*perm] == [1, 0, *range(2, len(perm))]


def _steps_and_batch(value: ir.Value) -> list[int]:
    """The axes with the first two changed over."""
    return [1, 0, *range(2, len(dims_of(value)))]


def _logarithm(writer: Writer, decay: ir.Value, form: str) -> ir.Value:
    """The logarithm of the decay, of the operand that the step made it of."""
    if form == "exp":
        return decay
    if form == "exp of negative":
        return writer.op("Neg", [decay])
    if form == "sigmoid":
        decay = writer.op("Sigmoid", [decay])
    return writer.op("Log", [decay])


def _as_matrices(writer: Writer, state: ir.Value, layout: Layout) -> ir.Value:
    """A state as (batch, heads, keys, values)."""
    inner = (layout.values, layout.keys) if layout.flipped else (layout.keys, layout.values)
    if len(dims_of(state)) != 4:
        state = writer.op("Reshape", [state, writer.ints([0, layout.heads, *inner])])
    if layout.flipped:
        state = writer.op("Transpose", [state], perm=[0, 1, 3, 2])
    return state


def _as_state(writer: Writer, matrices: ir.Value, state: ir.Value, layout: Layout) -> ir.Value:
    """Matrices (batch, heads, keys, values) in the shape of the state."""
    if layout.flipped:
        matrices = writer.op("Transpose", [matrices], perm=[0, 1, 3, 2])
    inner = inner_sizes(state, 1)
    if inner is not None and len(inner) != 3:
        matrices = writer.op("Reshape", [matrices, writer.ints([0, *inner])])
    return matrices
