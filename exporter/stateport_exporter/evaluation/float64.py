"""A graph in float64, node by node: what its values would be without the rounding of float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from .recurrent_ops import OPERATORS

Array = NDArray[Any]
Values = dict[str, Array]


def values(model: ModelProto, inputs: Mapping[str, Array], *, double: bool = True) -> Values:
    """Every value of the main graph, by name.

    Args:
        model: the model; it is not changed.
        inputs: all of its inputs, in the dtypes of the file.
        double: in float64; otherwise in the file's own dtypes.

    Raises:
        Exception: whatever onnx's reference says of an operator that it does not have.
    """
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    if double:
        _widen(wider.graph)
    names = [name for node in wider.graph.node for name in node.output if name]
    given = {
        name: array.astype(np.float64) if double and array.dtype == np.float32 else array
        for name, array in inputs.items()
    }
    evaluator = ReferenceEvaluator(wider, new_ops=[*OPERATORS])
    with np.errstate(all="ignore"):
        found = evaluator.run(names, given)
    return {**dict(zip(names, map(np.asarray, found), strict=True)), **given}


def _widen(graph: GraphProto) -> None:
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
            _widen(attribute.g)
        elif kind == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE


def _attributes(graph: GraphProto) -> Iterator[tuple[AttributeProto, str]]:
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute, node.op_type


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
