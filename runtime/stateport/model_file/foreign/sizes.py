# SPDX-License-Identifier: Apache-2.0
"""The short integer arrays from which a graph computes shapes, axes and pads.

Their elements may be names of axes. PyTorch's exporters write `F.pad` and `view` as some ten nodes
that only compute sizes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .dims import MOST_NUMBERS, Dim, Value, grows
from .nodes import Node, Tensor

Array = NDArray[Any]

#: An end of a slice below this is the beginning of the array.
_BEGINNING: Final = -(2**30)
#: Larger numbers are not computed with.
_LARGEST: Final = 2**31


def computed_sizes(node: Node, values: Sequence[Value]) -> Value | None:
    """The sizes that a node computes from sizes.

    None where an operand is unknown or too long, or where the operator computes no sizes.
    """
    rule = _RULES.get(node.operator)
    if rule is None or not values:
        return None

    arrays = []
    for value in values:
        array = _array_of(value)
        if array is None:
            return None
        arrays.append(array)

    try:
        # A rule may give the only element of an array instead of an array.
        result = np.asarray(rule(node, arrays), object)
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError):  # malformed
        return None

    if result.size > MOST_NUMBERS:
        return None
    return Value(result.shape, content=tuple(result.ravel().tolist()))


def _array_of(value: Value) -> Array | None:
    """The content as an array of objects; None where content or shape is unknown."""
    if value.content is None or value.dims is None:
        return None

    shape = _known_shape(value.dims)
    if shape is None or prod(shape) != len(value.content):
        return None

    array = np.empty(len(value.content), object)
    array[:] = value.content
    return array.reshape(shape)


def _known_shape(dims: Sequence[Dim]) -> list[int] | None:
    """The dimensions, where all of them are small sizes."""
    shape = []
    for dim in dims:
        if not isinstance(dim, int) or not 0 <= dim <= MOST_NUMBERS:
            return None
        shape.append(dim)
    return shape


def _numbers(node: Node, name: str, arrays: Sequence[Array], position: int) -> list[int] | None:
    """The integers of an attribute (older opsets) or an operand (newer opsets)."""
    if node.numbers(name):
        return [*node.numbers(name)]
    if position >= len(arrays):
        return None
    return [*map(int, arrays[position])]


def _concat(node: Node, arrays: Sequence[Array]) -> Array:
    return np.concatenate(arrays, node.number("axis", 0))


def _reshape(node: Node, arrays: Sequence[Array]) -> Array:
    return arrays[0].reshape(_numbers(node, "shape", arrays, 1) or [])


def _transpose(node: Node, arrays: Sequence[Array]) -> Array:
    return arrays[0].transpose(node.numbers("perm") or None)


def _slice(node: Node, arrays: Sequence[Array]) -> Array:
    starts = _numbers(node, "starts", arrays, 1) or []
    ends = _numbers(node, "ends", arrays, 2) or []
    axes = _numbers(node, "axes", arrays, 3) or range(len(starts))
    steps = _numbers(node, "steps", arrays, 4) or [1] * len(starts)

    slices = [slice(None)] * arrays[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # Python reads an end below zero as a position from the back, except None.
        reaches_beginning = step < 0 and end < _BEGINNING
        slices[axis] = slice(start, None if reaches_beginning else end, step)

    part: Array = arrays[0][tuple(slices)]
    return part


def _gather(node: Node, arrays: Sequence[Array]) -> Array:
    return np.take(arrays[0], arrays[1].astype(np.int64), node.number("axis", 0))


def _squeeze(node: Node, arrays: Sequence[Array]) -> Array:
    axes = _numbers(node, "axes", arrays, 1)
    return arrays[0].squeeze(None if axes is None else tuple(axes))


def _unsqueeze(node: Node, arrays: Sequence[Array]) -> Array:
    return np.expand_dims(arrays[0], tuple(_numbers(node, "axes", arrays, 1) or ()))


def _constant_of_shape(node: Node, arrays: Sequence[Array]) -> Array:
    shape = [*map(int, arrays[0])]
    fill = node.attributes.get("value")
    numbers = fill.numbers if isinstance(fill, Tensor) else (0,)

    if numbers is None or not 0 <= prod(shape) <= MOST_NUMBERS:
        raise ValueError("this is not a short array of integers")
    return np.full(shape, numbers[0], object)


def _arithmetic(node: Node, arrays: Sequence[Array]) -> Array:
    a, b = np.broadcast_arrays(*arrays)
    if a.size > MOST_NUMBERS:
        raise ValueError("the array is too long")

    result = np.empty(a.size, object)
    pairs = zip(a.flat, b.flat, strict=True)
    result[:] = [_combine(node.operator, x, y) for x, y in pairs]
    return result.reshape(a.shape)


def _combine(operation: str, a: Dim, b: Dim) -> Dim:
    """The result for one pair of elements; it grows with time if one of them does."""
    if not isinstance(a, int) or not isinstance(b, int) or max(abs(a), abs(b)) >= _LARGEST:
        if grows(a) or grows(b):
            return "~time"
        return None

    return _OPERATIONS[operation](a, b)


def _quotient(a: int, b: int) -> int | None:
    return a // b if b else None


def _identity(_: Node, arrays: Sequence[Array]) -> Array:
    return arrays[0]


_OPERATIONS: Final[dict[str, Callable[[int, int], int | None]]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _quotient,
}
_RULES: Final[dict[str, Callable[[Node, Sequence[Array]], Array]]] = {
    "Concat": _concat,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Slice": _slice,
    "Gather": _gather,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "ConstantOfShape": _constant_of_shape,
    "Cast": _identity,
    "Identity": _identity,
    **dict.fromkeys(_OPERATIONS, _arithmetic),
}
