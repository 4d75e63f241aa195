# SPDX-License-Identifier: Apache-2.0
"""Values of a graph that depend only on constants and sizes."""

from __future__ import annotations

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
    if node.op_type in MOVES:
        return _moved_constant(node)
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
