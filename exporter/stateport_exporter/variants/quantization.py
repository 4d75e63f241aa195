"""Weights in fewer bits: int8, or blocks of 4 bits.

ONNX Runtime has a quantised LSTM, and quantised products; there is no quantised GRU or RNN. Those
become a `Scan` over one step written out (`cells.py`), whose products are quantised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass

from ..graph.cells import OPERATORS, Cell, project, read, step_projected
from ..graph.operators import Operators, Writer
from ..graph.transposes import all_graphs, fold_transposes
from .quantized_products import MICROSOFT, Product, blockwise, int8, quantized

#: Operators that keep weights, and stay as they are.
_OTHERS: Final = ("Conv", "ConvTranspose", "Gather")


@dataclass(frozen=True)
class QuantizedOperator:
    """What became of one operator with weights.

    Attributes:
        operator: "LSTM", "MatMul".
        name: what its weights are called: "encoder.lstm.l0".
        form: how it is written now; None where it stayed as it was.
        because: why it stayed.
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
    product = product_in(bits)
    graph = model.graph
    outcomes = []
    for node in list(graph):
        if node.op_type not in OPERATORS or node.domain != "":
            continue
        if bits == 8 and node.op_type == "LSTM":
            outcomes.append(_quantize_lstm(node))
        else:
            outcomes.append(_scan_over(node))
    outcomes += quantize_linear(model, product)
    return outcomes


def quantize_linear(model: ir.Model, product: Product) -> list[QuantizedOperator]:
    """Quantises every product with stored weights, those in the bodies of loops among them."""
    fold_transposes(model)
    outcomes = []
    for graph in list(all_graphs(model)):
        for node in list(graph):
            if node.domain == "" and node.op_type in ("MatMul", "Gemm"):
                outcomes.append(_quantize_product(node, product, model.graph))
            elif node.domain == "" and node.op_type in _OTHERS and (name := _stored(node)):
                reason = f"{node.op_type} is left as it is"
                outcomes.append(QuantizedOperator(node.op_type, name, None, reason))
    model.graph.opset_imports.setdefault(MICROSOFT, 1)
    RemoveUnusedNodesPass()(model)
    NameFixPass()(model)  # what stands in the body of a loop has names of its own
    return [outcome for outcome in outcomes if outcome is not None]


def _stored(node: ir.Node) -> str | None:
    """The name of the first of its operands that is a stored matrix."""
    for value in node.inputs:
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        if value is not None and tensor is not None and len(tensor.shape) > 1:
            return value.name
    return None


def _quantize_product(node: ir.Node, product: Product, home: ir.Graph) -> QuantizedOperator | None:
    x, weight = node.inputs[0], node.inputs[1]
    assert x is not None
    assert weight is not None
    name = _layer(node, weight)
    tensor = ir.convenience.get_const_tensor(weight)
    if tensor is None:
        if (stored := _stored(node)) is not None:
            return QuantizedOperator(node.op_type, stored, None, "its weights stand on the left")
        return None  # a product of two values, as in attention
    matrix: NDArray[Any] = tensor.numpy()
    attribute = {key: a.value for key, a in node.attributes.items()}
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    stored_bias = None if bias is None else ir.convenience.get_const_tensor(bias)
    odd = attribute.get("transA", 0) or {attribute.get(k, 1.0) for k in ("alpha", "beta")} != {1.0}
    if matrix.ndim != 2 or matrix.dtype != np.float32 or odd:
        return QuantizedOperator(
            node.op_type, name, None, "it is no plain product of float32 values"
        )
    if attribute.get("transB", 0):
        matrix = matrix.T
    writer = Writer(node, home=home)
    if stored_bias is not None and len(stored_bias.shape) == 1:
        y = product(writer, x, matrix, stored_bias.numpy(), name)
    else:
        y = product(writer, x, matrix, None, name)
        y = y if bias is None else writer.op("Add", [y, bias])
    form = next(n.op_type for n in writer.nodes if n.domain == MICROSOFT)
    writer.replace([y])
    return QuantizedOperator(node.op_type, name, form)


def _layer(node: ir.Node, weight: ir.Value) -> str:
    """What a product's layer is called: by its weights, or by the bias that is added to it.

    PyTorch's exporter names weights anew that it has transposed.
    """
    names = [weight.name or node.op_type]
    for use in node.outputs[0].uses():
        if use.node.op_type == "Add":
            names += [v.name or "" for v in use.node.inputs if v and v.is_initializer()]
    named = next((name for name in names if "." in name), names[0])
    for ending in (".T", ".weight", ".bias"):
        named = named.removesuffix(ending)
    return named


def _quantize_lstm(node: ir.Node) -> QuantizedOperator:
    """ONNX Runtime's quantised LSTM: the same operands, with weights transposed and scales.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md,
    DynamicQuantizeLSTM.
    """
    w, r = node.inputs[1], node.inputs[2]
    assert w is not None
    name = (w.name or "LSTM").removesuffix(".W")
    arrays = [None if v is None else ir.convenience.get_const_tensor(v) for v in (w, r)]
    if arrays[0] is None or arrays[1] is None:
        return QuantizedOperator("LSTM", name, None, "its weights are computed, not stored")
    writer = Writer(node)
    scales: list[ir.Value] = []
    stored: list[ir.Value] = []
    for letter, array in zip("WR", arrays, strict=True):
        assert array is not None
        weights, scale = quantized(array.numpy().transpose(0, 2, 1))
        stored.append(writer.constant(weights, f"{name}.{letter}.int8"))
        zero = writer.constant(np.zeros_like(scale, np.int8), f"{name}.{letter}.zero")
        scales += [writer.constant(scale, f"{name}.{letter}.scale"), zero]
    rest = [*node.inputs[3:], *[None] * 8][:5]  # B, sequence_lens, initial_h, initial_c, P
    outputs = writer.own_ops(
        "DynamicQuantizeLSTM",
        [node.inputs[0], *stored, *rest, *scales],
        len(node.outputs),
        **{key: a.value for key, a in node.attributes.items() if key != "layout"},
    )
    writer.replace(outputs)
    return QuantizedOperator("LSTM", name, "DynamicQuantizeLSTM")


def _scan_over(node: ir.Node) -> QuantizedOperator:
    """A recurrent operator as a `Scan` over its step: the input's products before, all at once."""
    cell = read(node)
    if isinstance(cell, str):
        weight = node.inputs[1]
        name = (weight.name if weight is not None else None) or node.op_type
        return QuantizedOperator(node.op_type, name.removesuffix(".W"), None, cell)
    writer = Writer(node)
    x, zero = node.inputs[0], writer.ints([0])
    assert x is not None
    from_x = project(writer, cell, x)
    firsts = [writer.op("Squeeze", [state, zero]) for state in cell.states]
    body = _body(writer, cell)
    results = writer.ops("Scan", [*firsts, from_x], len(firsts) + 1, body=body, num_scan_inputs=1)
    y = writer.op("Unsqueeze", [results[-1], writer.ints([1])])
    lasts = [writer.op("Unsqueeze", [value, zero]) for value in results[:-1]]
    writer.replace([y, *lasts][: len(node.outputs)])
    return QuantizedOperator(cell.kind, cell.name, "Scan over its step")


def _body(writer: Writer, cell: Cell) -> ir.Graph:
    """One step; its weights stand in the graph around it."""
    gates = cell.hidden * OPERATORS[cell.kind]

    def argument(name: str, size: int) -> ir.Value:
        kind = ir.TensorType(ir.DataType.FLOAT)
        return ir.Value(name=name, type=kind, shape=ir.Shape(["batch", size]))

    prefix = f"step.{cell.name}"
    states = [argument(f"{prefix}.s{i}", cell.hidden) for i in range(len(cell.states))]
    from_x = argument(f"{prefix}.x", gates)
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
