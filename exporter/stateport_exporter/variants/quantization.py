# SPDX-License-Identifier: Apache-2.0
"""Weights in fewer bits: int8, or blocks of 4 bits.

ONNX Runtime has a quantised LSTM and quantised products, but no quantised GRU or RNN. These become
a `Scan` over one step in plain operators (`graph/cells.py`), whose products are quantised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import NameFixPass

from ..graph.cells import OPERATORS, Cell, project, read, step_projected
from ..graph.operators import Operators, Writer
from ..graph.transposes import all_graphs, fold_transposes
from ..graph.unused import remove_unused
from .operands import required_operand
from .quantized_products import MICROSOFT, Product, blockwise, int8, quantized

#: Operators with weights that stay as they are.
_UNQUANTIZED: Final = ("Conv", "ConvTranspose", "Gather")


@dataclass(frozen=True)
class QuantizedOperator:
    """What became of one operator with weights.

    Attributes:
        operator: the operator that it was: "LSTM", "MatMul".
        name: the name of its weights: "encoder.lstm.l0".
        form: how it is written now; None where it stayed as it was.
        reason: why it stayed.
    """

    operator: str
    name: str
    form: str | None
    reason: str | None = None


def product_in(bits: int) -> Product:
    """The product with weights of 8 or 4 bits."""
    return blockwise(4) if bits == 4 else int8


def quantize_graph(model: ir.Model, bits: int) -> list[QuantizedOperator]:
    """Quantises every recurrent and linear layer that can be, in place.

    Args:
        model: with float32 weights.
        bits: 8 (a scale per column; values are quantised in each call), or 4 (a scale per block of
            32; values stay float32).
    """
    outcomes = []
    for node in list(model.graph):
        if node.op_type not in OPERATORS or node.domain != "":
            continue
        if bits == 8 and node.op_type == "LSTM":
            outcomes.append(_quantize_lstm(node))
        else:
            outcomes.append(_scan_over_step(node))

    outcomes += quantize_linear(model, product_in(bits))
    return outcomes


def quantize_linear(model: ir.Model, product: Product) -> list[QuantizedOperator]:
    """Quantises every product with stored weights, in place, in the bodies of loops too.

    `product` writes a product with quantised weights.
    """
    fold_transposes(model)
    outcomes = []
    for graph in list(all_graphs(model)):
        for node in list(graph):
            outcome = _quantize_linear_node(node, product, model.graph)
            if outcome is not None:
                outcomes.append(outcome)

    model.graph.opset_imports.setdefault(MICROSOFT, 1)
    remove_unused(model)
    # What was written into the body of a loop may have a name that the graph around it has.
    NameFixPass()(model)
    return outcomes


def _quantize_linear_node(
    node: ir.Node, product: Product, home: ir.Graph
) -> QuantizedOperator | None:
    """Quantises an operator if it is a product; None if it has no stored matrix."""
    if node.domain != "":
        return None
    if node.op_type in ("MatMul", "Gemm"):
        return _quantize_product(node, product, home)

    if node.op_type not in _UNQUANTIZED:
        return None
    name = _stored_matrix_name(node)
    reason = f"{node.op_type} is left as it is"
    if name:
        return QuantizedOperator(node.op_type, name, None, reason)
    return None


def _stored_matrix_name(node: ir.Node) -> str | None:
    """The name of the first of its operands that is a stored matrix."""
    for value in filter(None, node.inputs):
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None and len(tensor.shape) > 1:
            return value.name
    return None


def _quantize_product(node: ir.Node, product: Product, home: ir.Graph) -> QuantizedOperator | None:
    """Quantises a product with stored weights; None if it multiplies two values, as attention does.

    Constants become initializers of the graph `home`.
    """
    x = required_operand(node, 0)
    weight = required_operand(node, 1)
    tensor = ir.convenience.get_const_tensor(weight)
    if tensor is None:
        name = _stored_matrix_name(node)
        reason = "its weights are the left operand"
        if name is None:
            return None
        return QuantizedOperator(node.op_type, name, None, reason)

    name = _layer_name(node, weight)
    matrix = _plain_matrix(node, tensor.numpy())
    if matrix is None:
        reason = "it is not a plain product of float32 values"
        return QuantizedOperator(node.op_type, name, None, reason)

    writer = Writer(node, home=home)
    y = _write_product(writer, node, product, x, matrix, name)
    form = next(written.op_type for written in writer.nodes if written.domain == MICROSOFT)
    writer.replace([y])
    return QuantizedOperator(node.op_type, name, form)


def _plain_matrix(node: ir.Node, weights: NDArray[Any]) -> NDArray[Any] | None:
    """The weights of a product as (in, out).

    None if they are not a float32 matrix, or if the product scales anything or transposes its left
    operand.
    """
    attribute = {name: a.value for name, a in node.attributes.items()}
    is_scaled = attribute.get("alpha", 1.0) != 1.0 or attribute.get("beta", 1.0) != 1.0
    if is_scaled or attribute.get("transA", 0):
        return None

    if weights.ndim != 2 or weights.dtype != np.float32:
        return None
    if attribute.get("transB", 0):
        return weights.T
    return weights


def _write_product(
    writer: Writer,
    node: ir.Node,
    product: Product,
    x: ir.Value,
    matrix: NDArray[Any],
    name: str,
) -> ir.Value:
    """Writes a product with quantised weights, and the bias of a `Gemm`."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return product(writer, x, matrix, None, name)

    stored_bias = ir.convenience.get_const_tensor(bias)
    if stored_bias is not None and len(stored_bias.shape) == 1:
        return product(writer, x, matrix, stored_bias.numpy(), name)
    return writer.op("Add", [product(writer, x, matrix, None, name), bias])


def _layer_name(node: ir.Node, weight: ir.Value) -> str:
    """The name of a product's layer, from its weights or from the bias that is added to it.

    PyTorch's exporter gives weights that it has transposed a name without the layer's.
    """
    names = [weight.name or node.op_type]
    for use in node.outputs[0].uses():
        if use.node.op_type == "Add":
            names += _initializer_names(use.node)

    name = next((name for name in names if "." in name), names[0])
    for ending in (".T", ".weight", ".bias"):
        name = name.removesuffix(ending)
    return name


def _initializer_names(node: ir.Node) -> list[str]:
    names = []
    for value in node.inputs:
        if value and value.is_initializer():
            names.append(value.name or "")
    return names


def _quantize_lstm(node: ir.Node) -> QuantizedOperator:
    """ONNX Runtime's quantised LSTM: the same operands, with weights transposed and scales.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md,
    DynamicQuantizeLSTM.
    """
    w = required_operand(node, 1)
    r = required_operand(node, 2)
    name = (w.name or "LSTM").removesuffix(".W")
    w_tensor = ir.convenience.get_const_tensor(w)
    r_tensor = ir.convenience.get_const_tensor(r)
    if w_tensor is None or r_tensor is None:
        return QuantizedOperator("LSTM", name, None, "its weights are computed, not stored")

    writer = Writer(node)
    scales: list[ir.Value] = []
    stored: list[ir.Value] = []
    for letter, tensor in (("W", w_tensor), ("R", r_tensor)):
        weights, scale = quantized(tensor.numpy().transpose(0, 2, 1))
        stored.append(writer.constant(weights, f"{name}.{letter}.int8"))
        zero = writer.constant(np.zeros_like(scale, np.int8), f"{name}.{letter}.zero")
        scales += [writer.constant(scale, f"{name}.{letter}.scale"), zero]

    rest = [*node.inputs[3:], *[None] * 8][:5]  # B, sequence_lens, initial_h, initial_c, P
    kept_attributes = {key: a.value for key, a in node.attributes.items() if key != "layout"}
    outputs = writer.own_ops(
        "DynamicQuantizeLSTM",
        [node.inputs[0], *stored, *rest, *scales],
        len(node.outputs),
        **kept_attributes,
    )
    writer.replace(outputs)
    return QuantizedOperator("LSTM", name, "DynamicQuantizeLSTM")


def _scan_over_step(node: ir.Node) -> QuantizedOperator:
    """A recurrent operator as a `Scan` over its step, after the input's products of all steps."""
    cell = read(node)
    if isinstance(cell, str):
        name = required_operand(node, 1).name or node.op_type
        return QuantizedOperator(node.op_type, name.removesuffix(".W"), None, cell)

    writer = Writer(node)
    zero = writer.ints([0])
    from_x = project(writer, cell, required_operand(node, 0))
    firsts = [writer.op("Squeeze", [state, zero]) for state in cell.states]
    body = _body(writer, cell)
    results = writer.ops("Scan", [*firsts, from_x], len(firsts) + 1, body=body, num_scan_inputs=1)

    y = writer.op("Unsqueeze", [results[-1], writer.ints([1])])
    lasts = [writer.op("Unsqueeze", [value, zero]) for value in results[:-1]]
    writer.replace([y, *lasts][: len(node.outputs)])
    return QuantizedOperator(cell.kind, cell.name, "Scan over its step")


def _body(writer: Writer, cell: Cell) -> ir.Graph:
    """One step. Its weights are in the graph around it."""
    prefix = f"step.{cell.name}"
    from_x = _batch_of_rows(f"{prefix}.x", cell.hidden * OPERATORS[cell.kind])
    states = [
        _batch_of_rows(f"{prefix}.s{number}", cell.hidden) for number in range(len(cell.states))
    ]

    inner = Operators(writer.home)
    nexts = step_projected(inner, cell, from_x, states)
    outputs = [*nexts, inner.op("Identity", [nexts[0]])]
    for number, node in enumerate(inner.nodes):
        node.name = f"{prefix}.node{number}"
        for position, value in enumerate(node.outputs):
            value.name = f"{prefix}.{number}.{position}"

    for value in outputs:
        value.type, value.shape = from_x.type, ir.Shape(["batch", cell.hidden])
    return ir.Graph([*states, from_x], outputs, nodes=inner.nodes, name=prefix)


def _batch_of_rows(name: str, size: int) -> ir.Value:
    """A float32 value (batch, size)."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    return ir.Value(name=name, type=kind, shape=ir.Shape(["batch", size]))
