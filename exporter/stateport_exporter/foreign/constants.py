# SPDX-License-Identifier: Apache-2.0
"""Values of a graph that depend only on constants and sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..graph.dataflow import moved_by

Array = NDArray[Any]

#: Operators that pass on the elements of their operands, in another shape or in a larger array.
MOVES: Final = frozenset(
    {"Cast", "CastLike", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice"}
    | {"Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
#: Those of them that leave all elements in their order, perhaps repeated.
_KEEPS_ORDER: Final = frozenset(
    {"Cast", "Expand", "Identity", "Reshape", "Squeeze", "Tile", "Unsqueeze"}
)
#: Operators that compute each element from the elements in the same place.
_COMPUTING: Final[dict[str, Callable[..., Array]]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Neg": np.negative,
    "Tanh": np.tanh,
}


def constant_of(value: ir.Value) -> Array | None:
    """The constant that a value equals if it depends only on constants and shapes, else None.

    An array of shape () if all elements are equal; else the elements in order, without their
    repetitions along the batch.
    """
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return _condensed(tensor.numpy())

    node = value.producer()
    if node is None:
        return None
    if node.op_type == "ConstantOfShape":
        return _fill_of(node)
    if node.op_type == "Gather":
        gathered = _gathered_constant(node)
        return _moved_constant(node) if gathered is None else gathered
    if node.op_type in MOVES:
        return _moved_constant(node)
    if node.op_type in _COMPUTING:
        return _computed_constant(node)
    return None


def _condensed(array: Array) -> Array:
    """The array; if all its elements are equal, one element in shape ()."""
    if array.size == 0:
        return array

    first = array.flat[0]
    if bool((array == first).all()):
        return np.array(first)
    return array


def _fill_of(node: ir.Node) -> Array:
    """The element that ConstantOfShape repeats."""
    attribute = node.attributes.get("value")
    if attribute is None:
        return np.zeros(())
    return attribute.as_tensor().numpy().reshape(())


def _moved_constant(node: ir.Node) -> Array | None:
    constants = []
    for value in moved_by(node):
        constant = None if value is None else constant_of(value)
        if constant is None:
            return None
        constants.append(constant)

    first = constants[0]
    if all(constant.ndim == 0 and constant == first for constant in constants):
        return first
    if node.op_type in _KEEPS_ORDER:
        return first
    return None


def _gathered_constant(node: ir.Node) -> Array | None:
    """What Gather takes from a stored array at stored numbers; None for all else."""
    array, indices = map(tensor_of, node.inputs)
    if array is None or indices is None:
        return None

    axis = node.attributes.get("axis")
    taken = np.take(array.numpy(), indices.numpy(), 0 if axis is None else axis.as_int())
    return _condensed(np.asarray(taken))


def _computed_constant(node: ir.Node) -> Array | None:
    """What an operator makes of each element; None where elements do not belong together."""
    constants = []
    for value in node.inputs:
        constant = None if value is None else constant_of(value)
        if constant is None:
            return None
        constants.append(constant.ravel() if constant.ndim else constant)

    sizes = {constant.size for constant in constants if constant.ndim}
    if len(sizes) > 1:
        return None
    return _condensed(np.asarray(_COMPUTING[node.op_type](*constants)))


def integer_of(value: ir.Value | None) -> int | None:
    """The only element of a constant; None where the value is absent, computed, or longer."""
    tensor = tensor_of(value)
    if tensor is None or tensor.size != 1:
        return None
    return int(tensor.numpy().ravel()[0])


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """What a value holds; None where the value is absent or computed."""
    if value is None:
        return None
    return ir.convenience.get_const_tensor(value)
