# SPDX-License-Identifier: Apache-2.0
"""A graph in float64, node by node: what its values would be without the rounding of float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from stateport.picking import map_values

from . import convolution_ops, recurrent_ops

Array = NDArray[Any]
Values = dict[str, Array]

#: What onnx's reference computes wrongly, or too slowly.
_OPERATORS: Final = (*convolution_ops.OPERATORS, *recurrent_ops.OPERATORS)


def values(model: ModelProto, inputs: Mapping[str, Array], *, double: bool = True) -> Values:
    """Every value of the main graph, by name.

    Args:
        model: the model; it is not changed.
        inputs: all of its inputs, in the dtypes of the file.
        double: compute in float64 what the file has in float32.

    Raises:
        Exception: whatever onnx's reference raises, as for an operator that it does not have.
    """
    names = [name for node in model.graph.node for name in node.output if name]
    evaluate = evaluation(model, double=double, names=names)
    arrays = map_values(_widen_array, inputs) if double else inputs
    return {**evaluate(inputs), **arrays}


def evaluation(
    model: ModelProto, *, double: bool = True, names: Sequence[str] | None = None
) -> Callable[[Mapping[str, Array]], Values]:
    """A function that evaluates a graph, any number of times: inputs by name -> values by name.

    Args:
        model: the model; it is not changed.
        double: compute in float64 what the file has in float32.
        names: the values to give, of the main graph; by default its outputs.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if double:
        _widen_graph(copy.graph)
    wanted = [value.name for value in copy.graph.output] if names is None else [*names]

    evaluator = ReferenceEvaluator(copy, new_ops=[*_OPERATORS])
    constants = _constant_outputs(copy.graph)

    def evaluate(inputs: Mapping[str, Array]) -> Values:
        arrays = dict(inputs)
        if double:
            arrays = map_values(_widen_array, inputs)
        with np.errstate(all="ignore"):
            results = evaluator.run(wanted, arrays)
        return {**constants, **dict(zip(wanted, map(np.asarray, results), strict=True))}

    return evaluate


def _constant_outputs(graph: GraphProto) -> Values:
    """The outputs of a graph that are weights, so that no node computes them."""
    outputs = {value.name for value in graph.output}
    constants = {}
    for tensor in graph.initializer:
        if tensor.name in outputs:
            constants[tensor.name] = numpy_helper.to_array(tensor)
    return constants


def _widen_array(array: Array) -> Array:
    if array.dtype == np.float32:
        return array.astype(np.float64)
    return array


def _widen_graph(graph: GraphProto) -> None:
    """Turns all that is float32 into float64, in the graphs of its nodes too."""
    for tensor in graph.initializer:
        _widen_tensor(tensor)

    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE

    for attribute, kind in _attributes(graph):
        if attribute.type == AttributeProto.TENSOR:
            _widen_tensor(attribute.t)
        elif attribute.type == AttributeProto.GRAPH:
            _widen_graph(attribute.g)
        elif kind == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE


def _attributes(graph: GraphProto) -> Iterator[tuple[AttributeProto, str]]:
    """The attributes of the graph's nodes, each with the operator that has it."""
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute, node.op_type


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
