"""One step of ONNX's recurrent operators, written in plain ones.

Sources: https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html and onnx__RNN.html. A step
is a product of the input and one of the state, and what makes the next state of both:

    LSTM   i, o, f, c = x W + h R + b     c' = s(f) c + s(i) tanh(c),  h' = s(o) tanh(c')
    GRU    z, r, n = x W + b   and   z, r, n = h R + b
                                          h' = n' + s(z) (h - n'),  n' = tanh(n + s(r) n)
    RNN    a = x W + h R + b              h' = tanh(a), or relu(a)

Gates are (batch, features) throughout; a state may have an axis of 1 in front, and keeps it.

Products are `Gemm`, or `MatMul` over a whole sequence, in float32; `precision.py` makes other ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .operators import Operators

Array = NDArray[Any]

OPERATORS: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}  # and how many gates each has


@dataclass(frozen=True)
class Cell:
    """A recurrent operator of one direction, with its weights.

    Attributes:
        node: the operator; its operands are x, W, R, B, sequence_lens, initial_h, initial_c.
        name: what its weights are called: "encoder.lstm.l0".
        w: (input, gates * hidden).
        r: (hidden, gates * hidden).
        b: (2, gates * hidden), of the input and of the recurrence; None where it has none.
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
        return [value for value in self.node.inputs[5:7] if value is not None]


def read(node: ir.Node) -> Cell | str:
    """A recurrent operator's cell, or the reason why it is not written out."""
    reason = _why_not(node)
    if reason is not None:
        return reason
    arrays = [_array(value) for value in node.inputs[1:4]]
    w, r, b = arrays + [None] * (3 - len(arrays))
    if w is None or r is None or (b is None and len(node.inputs) > 3 and node.inputs[3]):
        return "its weights are computed, not stored"
    names = node.attributes.get("activations")
    default = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
    found = list(names.as_strings()) if names is not None else default[node.op_type]
    usual = [default[node.op_type], *([["Relu"]] if node.op_type == "RNN" else [])]
    if found not in usual:
        return f"its activations are {', '.join(found)}"
    weight = node.inputs[1]
    assert weight is not None
    return Cell(
        node,
        (weight.name or node.op_type).removesuffix(".W"),
        w[0].T,
        r[0].T,
        None if b is None else (*np.split(b[0], 2),),  # type: ignore[arg-type]
        found[0],
    )


def _why_not(node: ir.Node) -> str | None:
    attribute = {name: a.value for name, a in node.attributes.items()}
    if attribute.get("direction", "forward") != "forward":
        return f"its direction is {attribute['direction']}"
    if attribute.get("layout", 0) or attribute.get("clip") or attribute.get("input_forget", 0):
        return "it has a layout, a clip or coupled gates of its own"
    if node.op_type == "GRU" and not attribute.get("linear_before_reset", 0):
        return "it resets before its product (linear_before_reset=0)"
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        return "its rows have lengths"
    if len(node.inputs) > 7 and node.inputs[7] is not None:
        return "it has peepholes"
    if len(node.inputs) < (7 if node.op_type == "LSTM" else 6) or node.inputs[5] is None:
        return "it has no first state"
    return None


def _array(value: ir.Value | None) -> Array | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


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
    both = np.concatenate([cell.w, cell.r])
    bias = None if cell.b is None else cell.b[0] + cell.b[1]
    if cell.kind == "RNN":
        (gate,) = _products(ops, joined, both, bias, f"{cell.name}.WR", ["T"])
        return [ops.op("Unsqueeze", [ops.op(cell.activation, [gate]), ops.ints([0])])]
    size = cell.hidden
    if cell.kind == "LSTM":
        names = ["i", "o", "f", "c"] if per_gate else ["T"]
        gates = _products(ops, joined, both, bias, f"{cell.name}.WR", names)
        return _lstm(ops, gates if per_gate else _cut(ops, gates[0], [size] * 4), states)
    bx, bh = cell.b or (None, None)
    if per_gate:
        first, last = np.s_[: 2 * size], np.s_[2 * size :]
        bias = None if bias is None else bias[first]
        two = _products(ops, joined, both[:, first], bias, f"{cell.name}.WR", ["z", "r"])
        new_bias = (None, None) if bx is None or bh is None else (bx[last], bh[last])
        (x_new,) = _products(ops, x, cell.w[:, last], new_bias[0], f"{cell.name}.W", ["n"])
        (h_new,) = _products(ops, h, cell.r[:, last], new_bias[1], f"{cell.name}.R", ["n"])
        return _gru(ops, two, x_new, h_new, states[0])
    (from_x,) = _products(ops, x, cell.w, bx, f"{cell.name}.W", ["T"])
    (from_h,) = _products(ops, h, cell.r, bh, f"{cell.name}.R", ["T"])
    return _gru_joined(ops, cell, from_x, from_h, states[0])


def _products(
    ops: Operators,
    x: ir.Value,
    matrix: Array,
    bias: Array | None,
    name: str,
    parts: Sequence[str],
) -> list[ir.Value]:
    """X @ matrix + bias, its columns in so many parts of one size; x is (batch, features)."""
    matrices = np.split(matrix, len(parts), axis=1)
    biases = [None] * len(parts) if bias is None else np.split(bias, len(parts))
    values = []
    for part, columns, added in zip(parts, matrices, biases, strict=True):
        operands = [x, ops.constant(columns, f"{name}.{part}")]
        if added is not None:
            operands.append(ops.constant(added, f"{name}.{part}.B"))
        values.append(ops.op("Gemm", operands))
    return values


def project(ops: Operators, cell: Cell, x: ir.Value) -> ir.Value:
    """What the input brings to the gates of every step: (time, batch, gates * hidden)."""
    from_x = ops.op("MatMul", [x, ops.constant(cell.w, f"{cell.name}.W.T")])
    if cell.b is None:
        return from_x
    bias = cell.b[0] if cell.kind == "GRU" else cell.b[0] + cell.b[1]
    return ops.op("Add", [from_x, ops.constant(bias, f"{cell.name}.W.B")])


def step_projected(
    ops: Operators, cell: Cell, from_x: ir.Value, states: Sequence[ir.Value]
) -> list[ir.Value]:
    """The next states, from one step of what `project` gave; all are (batch, features)."""
    bias = cell.b[1] if cell.kind == "GRU" and cell.b is not None else None
    (from_h,) = _products(ops, states[0], cell.r, bias, f"{cell.name}.R", ["T"])
    if cell.kind == "GRU":
        return _gru_joined(ops, cell, from_x, from_h, states[0])
    gates = ops.op("Add", [from_x, from_h])
    if cell.kind == "RNN":
        return [ops.op(cell.activation, [gates])]
    return _lstm(ops, _cut(ops, gates, [cell.hidden] * 4), states)


def _lstm(ops: Operators, gates: Sequence[ir.Value], states: Sequence[ir.Value]) -> list[ir.Value]:
    *three, candidate = gates
    entry, out, forget = (ops.op("Sigmoid", [gate]) for gate in three)
    kept = ops.op("Mul", [forget, states[1]])
    added = ops.op("Mul", [entry, ops.op("Tanh", [candidate])])
    c = ops.op("Add", [kept, added])
    return [ops.op("Mul", [out, ops.op("Tanh", [c])]), c]


def _gru_joined(
    ops: Operators, cell: Cell, from_x: ir.Value, from_h: ir.Value, h: ir.Value
) -> list[ir.Value]:
    sizes = [2 * cell.hidden, cell.hidden]
    (x_two, x_new), (h_two, h_new) = _cut(ops, from_x, sizes), _cut(ops, from_h, sizes)
    two = _cut(ops, ops.op("Add", [x_two, h_two]), [cell.hidden] * 2)
    return _gru(ops, two, x_new, h_new, h)


def _gru(
    ops: Operators, two: Sequence[ir.Value], x_new: ir.Value, h_new: ir.Value, h: ir.Value
) -> list[ir.Value]:
    update, reset = (ops.op("Sigmoid", [gate]) for gate in two)
    new = ops.op("Tanh", [ops.op("Add", [x_new, ops.op("Mul", [reset, h_new])])])
    moved = ops.op("Mul", [update, ops.op("Sub", [h, new])])
    return [ops.op("Add", [new, moved])]


def _cut(ops: Operators, value: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
    """A value (batch, features) cut along its features."""
    return ops.ops("Split", [value, ops.ints(sizes)], len(sizes), axis=1)
