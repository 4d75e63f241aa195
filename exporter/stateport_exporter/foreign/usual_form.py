# SPDX-License-Identifier: Apache-2.0
"""A graph of another exporter in the form that lifting takes, with the same answers.

Its nodes are in order, its weights are no inputs, and its recurrent operators take time first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass

from stateport.picking import sure

from .recurrent_operators import INITIAL_STATES, is_batch_first, operand, recurrent_nodes

Array = NDArray[Any]

#: Before this IR version, every initializer had to be an input too.
#: Source: https://github.com/onnx/onnx/blob/main/docs/IR.md
_WEIGHTS_APART: Final = 4

#: How (batch, time, ...) becomes (time, batch, ...), and (batch, directions, hidden) becomes
#: (directions, batch, hidden); and back.
_SWAP: Final = (1, 0, 2)
#: How (time, directions, batch, hidden) becomes (batch, time, directions, hidden).
#: Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, on `layout`
_BATCH_TO_FRONT: Final = (2, 0, 1, 3)


def inline_functions(model: ir.Model) -> None:
    """Writes the bodies of the file's own functions in place of their calls, in place."""
    if model.functions:
        InlinePass()(model)


def sort_nodes(model: ir.Model) -> None:
    """Puts each node behind those that compute its operands, in place.

    ONNX requires this order, and ONNX Runtime does not: converters to float16 break it.
    """
    model.graph.sort()


def take_weights_from_inputs(model: ir.Model) -> None:
    """Removes the weights from the inputs of the graph, in place, as files are since IR version 4.

    What a caller feeds in place of a weight is not the file's any more: the weights in the file
    count.
    """
    graph = model.graph
    for value in list(graph.inputs):
        if value.is_initializer():
            graph.inputs.remove(value)
    model.ir_version = max(model.ir_version, _WEIGHTS_APART)


def make_constant(graph: ir.Graph, fixed: Mapping[str, Array]) -> None:
    """Turns inputs of a graph into initializers with these values, in place."""
    inputs = {value.name: value for value in graph.inputs}
    for name, array in fixed.items():
        value = inputs[name]
        graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        graph.register_initializer(value)


def put_time_first(model: ir.Model) -> bool:
    """Rewrites recurrent operators with `layout=1`, which ONNX Runtime does not take, in place.

    Their operands and results are transposed, so that the values around them stay as they are.

    Returns:
        Whether there was one.
    """
    rewritten = False
    for node, _ in list(recurrent_nodes(model.graph)):
        if is_batch_first(node):
            _put_time_first(node)
            rewritten = True
    return rewritten


def _put_time_first(node: ir.Node) -> None:
    del node.attributes["layout"]
    for position in (0, *INITIAL_STATES[node.op_type]):
        _transpose_operand(node, position)

    for position, value in enumerate(list(node.outputs)):
        if value.name and (value.uses() or value.is_graph_output()):
            _transpose_result(value, _SWAP if position else _BATCH_TO_FRONT)


def _transpose_operand(node: ir.Node, position: int) -> None:
    value = operand(node, position)
    if value is None:
        return

    graph = sure(node.graph)
    constant = ir.convenience.get_const_tensor(value)
    if constant is None:
        transpose = ir.node("Transpose", [value], {"perm": _SWAP})
    else:  # it stays a constant, so that a first state is seen to be one
        swapped = ir.tensor(constant.numpy().transpose(_SWAP))
        transpose = ir.node("Constant", [], {"value": swapped})

    transpose.outputs[0].type = value.type
    graph.insert_before(node, transpose)
    node.replace_input_with(position, transpose.outputs[0])


def _transpose_result(value: ir.Value, order: tuple[int, ...]) -> None:
    """Lets a transposed copy of a result take its place, and its name."""
    node = sure(value.producer())
    graph = sure(node.graph)

    transpose = ir.node("Transpose", [value], {"perm": order})
    copy = transpose.outputs[0]
    copy.name, copy.type, copy.shape = value.name, value.type, value.shape
    value.name, value.shape = f"{value.name} with time first", None

    graph.insert_after(node, transpose)
    value.replace_all_uses_with(copy, replace_graph_outputs=True)
    transpose.replace_input_with(0, value)
