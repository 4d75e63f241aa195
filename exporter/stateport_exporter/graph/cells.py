# SPDX-License-Identifier: Apache-2.0
"""One step of ONNX's recurrent operators, written in plain ones.

Sources: https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html and onnx__RNN.html. A step
is a product of the input and one of the state, and what makes the next state of both:

    LSTM   i, o, f, c = x W + h R + b     c' = s(f) c + s(i) tanh(c),  h' = s(o) tanh(c')
    GRU    z, r, n = x W + b   and   z, r, n = h R + b
                                          h' = n' + s(z) (h - n'),  n' = tanh(n + s(r) n)
    RNN    a = x W + h R + b              h' = tanh(a), or relu(a)

Gates are (batch, features) throughout; a state may have an axis of 1 in front, and keeps it.

Products are `Gemm`, or `MatMul` over a whole sequence, in float32. Those of quantised weights are
made by `variants.quantized_products`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from stateport.picking import present, sure

from .operators import Operators

Array = NDArray[Any]

#: The recurrent operators, and how many gates each has.
OPERATORS: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}
#: The activations that each operator has if its node names none.
_ACTIVATIONS: Final = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Tanh"],
}


@dataclass(frozen=True)
class Cell:
    """A recurrent operator of one direction, with its weights.

    Attributes:
        node: the operator; its operands are x, W, R, B, sequence_lens, initial_h, initial_c.
        name: what its weights are called: "encoder.lstm.l0".
        w: (input, gates * hidden).
        r: (hidden, gates * hidden).
        b: two arrays (gates * hidden,), of the input and of the recurrence; None where it has none.
        activation: "Tanh" or "Relu", of an RNN.
    """

    node: ir.Node
    name: str
    w: Array
    r: Array
    b: tuple[Array, Array] | None
    activation: str

    @property
    def kind(self) -> str:
        """The operator's name, "LSTM"."""
        return self.node.op_type

    @property
    def hidden(self) -> int:
        """The hidden size."""
        return len(self.r)

    @property
    def states(self) -> list[ir.Value]:
        """The first states (1, batch, hidden): h, and c of an LSTM."""
        return present(self.node.inputs[5:7])


def read(node: ir.Node) -> Cell | str:
    """A recurrent operator's cell, or the reason why it is not written out."""
    reason = _unusual_attribute(node) or _unusual_operand(node)
    if reason is not None:
        return reason

    w = _constant(node.inputs[1])
    r = _constant(node.inputs[2])
    b = _constant(_operand(node, 3))
    is_bias_computed = b is None and _operand(node, 3) is not None
    if w is None or r is None or is_bias_computed:
        return "its weights are computed, not stored"

    activations = _activations(node)
    is_usual = activations == _ACTIVATIONS[node.op_type]
    is_relu = node.op_type == "RNN" and activations == ["Relu"]
    if not (is_usual or is_relu):
        return f"its activations are {', '.join(activations)}"

    return Cell(node, _weights_name(node), w[0].T, r[0].T, _two_biases(b), activations[0])


def _unusual_attribute(node: ir.Node) -> str | None:
    """Which attribute keeps the operator from being written out, in words; None where none does."""
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}

    direction = attributes.get("direction", "forward")
    if direction != "forward":
        return f"its direction is {direction}"

    has_layout = attributes.get("layout", 0)
    has_clip = attributes.get("clip")
    has_coupled_gates = attributes.get("input_forget", 0)
    if has_layout or has_clip or has_coupled_gates:
        return "it has a layout, a clip or coupled gates"

    if node.op_type == "GRU" and not attributes.get("linear_before_reset", 0):
        return "it resets before its product (linear_before_reset=0)"
    return None


def _unusual_operand(node: ir.Node) -> str | None:
    """Which operand keeps the operator from being written out, in words; None where none does."""
    if _operand(node, 4) is not None:
        return "its rows have lengths"
    if _operand(node, 7) is not None:
        return "it has peepholes"

    operands_with_states = 7 if node.op_type == "LSTM" else 6
    if len(node.inputs) < operands_with_states or node.inputs[5] is None:
        return "it has no first state"
    return None


def _operand(node: ir.Node, position: int) -> ir.Value | None:
    if len(node.inputs) > position:
        return node.inputs[position]
    return None


def _constant(value: ir.Value | None) -> Array | None:
    """The array that a value holds; None where it is computed or absent."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        return None
    return tensor.numpy()


def _two_biases(b: Array | None) -> tuple[Array, Array] | None:
    """The operand B (1, 2 * gates * hidden) as one bias of the input and one of the recurrence."""
    if b is None:
        return None
    of_input, of_recurrence = np.split(b[0], 2)
    return of_input, of_recurrence


def _activations(node: ir.Node) -> list[str]:
    attribute = node.attributes.get("activations")
    if attribute is None:
        return _ACTIVATIONS[node.op_type]
    return list(attribute.as_strings())


def _weights_name(node: ir.Node) -> str:
    weights = sure(node.inputs[1])
    return (weights.name or node.op_type).removesuffix(".W")


def step(
    ops: Operators, cell: Cell, x: ir.Value, states: Sequence[ir.Value], *, per_gate: bool
) -> list[ir.Value]:
    """The next states of one step; x is (batch, input), a state (1, batch, hidden).

    `per_gate` makes a product for each gate. ONNX Runtime then fuses a gate's product and
    activation, and there is no `Split`: a tenth less time. Products of quantised weights are
    better made together, because each of them quantises its values again.
    """
    h = ops.op("Squeeze", [states[0], ops.ints([0])])
    joined = ops.concat([x, h], axis=1)

    if cell.kind == "RNN":
        return _rnn_step(ops, cell, joined)
    if cell.kind == "LSTM":
        return _lstm_step(ops, cell, joined, states, per_gate=per_gate)
    if per_gate:
        return _gru_step_per_gate(ops, cell, (x, h, joined), states[0])
    return _gru_step(ops, cell, x, h, states[0])


def project(ops: Operators, cell: Cell, x: ir.Value) -> ir.Value:
    """What the input brings to the gates of every step: (time, batch, gates * hidden)."""
    from_x = ops.op("MatMul", [x, ops.constant(cell.w, f"{cell.name}.W.T")])
    if cell.b is None:
        return from_x

    # A GRU adds its recurrent bias before it resets, so that one cannot be added here.
    bias = cell.b[0] if cell.kind == "GRU" else cell.b[0] + cell.b[1]
    return ops.op("Add", [from_x, ops.constant(bias, f"{cell.name}.W.B")])


def step_projected(
    ops: Operators, cell: Cell, from_x: ir.Value, states: Sequence[ir.Value]
) -> list[ir.Value]:
    """The next states, from one step of what `project` gave; all are (batch, features)."""
    # `project` has added the other biases already.
    bias = cell.b[1] if cell.kind == "GRU" and cell.b is not None else None
    (from_h,) = _products(ops, states[0], cell.r, bias, f"{cell.name}.R", ["T"])

    if cell.kind == "GRU":
        return _gru_from_projections(ops, cell, from_x, from_h, states[0])

    gates = ops.op("Add", [from_x, from_h])
    if cell.kind == "RNN":
        return [ops.op(cell.activation, [gates])]
    return _lstm_from_gates(ops, _split_features(ops, gates, [cell.hidden] * 4), states)


def _rnn_step(ops: Operators, cell: Cell, joined: ir.Value) -> list[ir.Value]:
    (gate,) = _products_of_joined(ops, cell, joined, ["T"])
    h = ops.op(cell.activation, [gate])
    return [ops.op("Unsqueeze", [h, ops.ints([0])])]


def _lstm_step(
    ops: Operators, cell: Cell, joined: ir.Value, states: Sequence[ir.Value], *, per_gate: bool
) -> list[ir.Value]:
    if per_gate:
        gates = _products_of_joined(ops, cell, joined, ["i", "o", "f", "c"])
        return _lstm_from_gates(ops, gates, states)

    (all_gates,) = _products_of_joined(ops, cell, joined, ["T"])
    return _lstm_from_gates(ops, _split_features(ops, all_gates, [cell.hidden] * 4), states)


def _gru_step(
    ops: Operators, cell: Cell, x: ir.Value, h: ir.Value, state: ir.Value
) -> list[ir.Value]:
    x_bias, h_bias = cell.b or (None, None)
    (from_x,) = _products(ops, x, cell.w, x_bias, f"{cell.name}.W", ["T"])
    (from_h,) = _products(ops, h, cell.r, h_bias, f"{cell.name}.R", ["T"])
    return _gru_from_projections(ops, cell, from_x, from_h, state)


def _gru_step_per_gate(
    ops: Operators, cell: Cell, operands: tuple[ir.Value, ir.Value, ir.Value], state: ir.Value
) -> list[ir.Value]:
    """A GRU's step with a product for each gate; `operands` are x, h and the two joined."""
    x, h, joined = operands
    two = np.s_[: 2 * cell.hidden]
    last = np.s_[2 * cell.hidden :]

    # Update and reset gate add what comes from x and from h, so one product gives both.
    matrix, bias = _joined_weights(cell)
    two_bias = None if bias is None else bias[two]
    gates = _products(ops, joined, matrix[:, two], two_bias, f"{cell.name}.WR", ["z", "r"])

    # The new gate resets what comes from h before it adds the two.
    x_bias, h_bias = (None, None) if cell.b is None else (cell.b[0][last], cell.b[1][last])
    (x_new,) = _products(ops, x, cell.w[:, last], x_bias, f"{cell.name}.W", ["n"])
    (h_new,) = _products(ops, h, cell.r[:, last], h_bias, f"{cell.name}.R", ["n"])
    return _gru_from_gates(ops, gates, x_new, h_new, state)


def _joined_weights(cell: Cell) -> tuple[Array, Array | None]:
    """Matrix and bias of one product that takes x and h joined."""
    matrix = np.concatenate([cell.w, cell.r])
    return matrix, None if cell.b is None else cell.b[0] + cell.b[1]


def _products_of_joined(
    ops: Operators, cell: Cell, joined: ir.Value, parts: Sequence[str]
) -> list[ir.Value]:
    matrix, bias = _joined_weights(cell)
    return _products(ops, joined, matrix, bias, f"{cell.name}.WR", parts)


def _products(
    ops: Operators,
    x: ir.Value,
    matrix: Array,
    bias: Array | None,
    name: str,
    parts: Sequence[str],
) -> list[ir.Value]:
    """X @ matrix + bias, with the columns cut into named parts of one size; x is (batch, features).

    One value (batch, columns of the part) for each part.
    """
    matrices = np.split(matrix, len(parts), axis=1)
    biases = [None] * len(parts) if bias is None else np.split(bias, len(parts))

    values = []
    for part, columns, added in zip(parts, matrices, biases, strict=True):
        operands = [x, ops.constant(columns, f"{name}.{part}")]
        if added is not None:
            operands.append(ops.constant(added, f"{name}.{part}.B"))
        values.append(ops.op("Gemm", operands))
    return values


def _lstm_from_gates(
    ops: Operators, gates: Sequence[ir.Value], states: Sequence[ir.Value]
) -> list[ir.Value]:
    *three, candidate = gates
    entry, out, forget = (ops.op("Sigmoid", [gate]) for gate in three)

    remembered = ops.op("Mul", [forget, states[1]])
    added = ops.op("Mul", [entry, ops.op("Tanh", [candidate])])
    c = ops.op("Add", [remembered, added])
    return [ops.op("Mul", [out, ops.op("Tanh", [c])]), c]


def _gru_from_projections(
    ops: Operators, cell: Cell, from_x: ir.Value, from_h: ir.Value, h: ir.Value
) -> list[ir.Value]:
    sizes = [2 * cell.hidden, cell.hidden]
    x_two, x_new = _split_features(ops, from_x, sizes)
    h_two, h_new = _split_features(ops, from_h, sizes)

    both_gates = ops.op("Add", [x_two, h_two])
    gates = _split_features(ops, both_gates, [cell.hidden] * 2)
    return _gru_from_gates(ops, gates, x_new, h_new, h)


def _gru_from_gates(
    ops: Operators, gates: Sequence[ir.Value], x_new: ir.Value, h_new: ir.Value, h: ir.Value
) -> list[ir.Value]:
    update, reset = (ops.op("Sigmoid", [gate]) for gate in gates)
    new = ops.op("Tanh", [ops.op("Add", [x_new, ops.op("Mul", [reset, h_new])])])
    moved = ops.op("Mul", [update, ops.op("Sub", [h, new])])
    return [ops.op("Add", [new, moved])]


def _split_features(ops: Operators, value: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
    """A value (batch, features) cut along its features into parts of these sizes."""
    return ops.ops("Split", [value, ops.ints(sizes)], len(sizes), axis=1)
