# SPDX-License-Identifier: Apache-2.0
"""A graph in float64, node by node: what its values would be without the rounding of float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from stateport.picking import map_values

from . import activation_ops, convolution_ops, recurrent_ops
from .widening import widen_array, widen_graph

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
    arrays = map_values(widen_array, inputs) if double else inputs
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
        widen_graph(copy.graph)
    wanted = [value.name for value in copy.graph.output] if names is None else [*names]

    operators = _OPERATORS if double else (*_OPERATORS, *activation_ops.OPERATORS)
    evaluator = ReferenceEvaluator(copy, new_ops=[*operators])
    constants = _constant_outputs(copy.graph)

    def evaluate(inputs: Mapping[str, Array]) -> Values:
        arrays = dict(inputs)
        if double:
            arrays = map_values(widen_array, inputs)
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
