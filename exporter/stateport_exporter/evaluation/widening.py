# SPDX-License-Identifier: Apache-2.0
"""What a graph has in float32 as float64. Without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, TensorProto, numpy_helper

Array = NDArray[Any]


def widen_array(array: Array) -> Array:
    """The array, in float64 if it is in float32."""
    if array.dtype == np.float32:
        return array.astype(np.float64)
    return array


def widen_graph(graph: GraphProto) -> None:
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
            widen_graph(attribute.g)
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
