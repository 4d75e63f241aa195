"""The short integer arrays by which a graph computes shapes, axes and pads.

Names of axes stand in them. PyTorch's exporters write `F.pad` and `view` as some ten nodes that
only compute sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .dims import MOST_NUMBERS, Dim, Value, grows
from .nodes import Node, Tensor

Array = NDArray[Any]


def computed(node: Node, values: Sequence[Value]) -> Value | None:
    """The sizes that a node computes from sizes; None where some are unknown, or it does not."""
    rule = _RULES.get(node.operator)
    if rule is None or not values:
        return None
    arrays = [_array(value) for value in values]
    known = [array for array in arrays if array is not None]
    if len(known) < len(arrays):
        return None
    try:
        result = np.asarray(rule(node, known), object)  # of one element, it may be that itself
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError):  # malformed
        return None
    if result.size > MOST_NUMBERS:
        return None
    return Value(result.shape, content=tuple(result.ravel().tolist()))


def _array(value: Value) -> Array | None:
    """The value as an array of objects, where all is known."""
    if value.content is None or value.dims is None:
        return None
    shape = [dim for dim in value.dims if isinstance(dim, int) and 0 <= dim <= MOST_NUMBERS]
    if len(shape) < len(value.dims) or prod(shape) != len(value.content):
        return None
    array = np.empty(len(value.content), object)
    array[:] = value.content
    return array.reshape(shape)


def _numbers(node: Node, name: str, arrays: Sequence[Array], place: int) -> list[int] | None:
    """An attribute of older opsets, or an operand of newer ones."""
    if node.numbers(name):
        return [*node.numbers(name)]
    return [int(number) for number in arrays[place]] if place < len(arrays) else None


def _concat(node: Node, arrays: Sequence[Array]) -> Array:
    return np.concatenate(arrays, node.number("axis", 0))


def _reshape(node: Node, arrays: Sequence[Array]) -> Array:
    return arrays[0].reshape(_numbers(node, "shape", arrays, 1) or [])


def _transpose(node: Node, arrays: Sequence[Array]) -> Array:
    return arrays[0].transpose(node.numbers("perm") or None)


def _slice(node: Node, arrays: Sequence[Array]) -> Array:
    names = ("starts", "ends", "axes", "steps")
    starts, ends, axes, steps = (_numbers(node, n, arrays, i) for i, n in enumerate(names, 1))
    count = len(starts or ())
    parts = [slice(None)] * arrays[0].ndim
    for start, end, axis, step in zip(
        starts or (), ends or (), axes or range(count), steps or [1] * count, strict=True
    ):
        parts[axis] = slice(start, None if step < 0 and end < -(2**30) else end, step)
    made: Array = arrays[0][tuple(parts)]
    return made


def _gather(node: Node, arrays: Sequence[Array]) -> Array:
    return np.take(arrays[0], arrays[1].astype(np.int64), node.number("axis", 0))


def _squeeze(node: Node, arrays: Sequence[Array]) -> Array:
    axes = _numbers(node, "axes", arrays, 1)
    return arrays[0].squeeze(None if axes is None else tuple(axes))


def _unsqueeze(node: Node, arrays: Sequence[Array]) -> Array:
    return np.expand_dims(arrays[0], tuple(_numbers(node, "axes", arrays, 1) or ()))


def _filled(node: Node, arrays: Sequence[Array]) -> Array:
    shape = [int(size) for size in arrays[0]]
    fill = node.attributes.get("value")
    numbers = fill.numbers if isinstance(fill, Tensor) else (0,)
    if numbers is None or not 0 <= prod(shape) <= MOST_NUMBERS:
        raise ValueError("no short array of integers")
    return np.full(shape, numbers[0], object)


def _arithmetic(node: Node, arrays: Sequence[Array]) -> Array:
    a, b = np.broadcast_arrays(*arrays)
    if a.size > MOST_NUMBERS:
        raise ValueError("no short array")
    made = np.empty(a.size, object)
    made[:] = [_combined(node.operator, x, y) for x, y in zip(a.flat, b.flat, strict=True)]
    return made.reshape(a.shape)


def _combined(operator: str, a: Dim, b: Dim) -> Dim:
    """What depends on a size that grows with time grows as well."""
    if isinstance(a, int) and isinstance(b, int) and max(abs(a), abs(b)) < 2**31:
        if operator == "Div":
            return a // b if b else None
        return {"Add": a + b, "Sub": a - b, "Mul": a * b}[operator]
    return "~time" if grows(a) or grows(b) else None


def _itself(_: Node, arrays: Sequence[Array]) -> Array:
    return arrays[0]


_RULES: Final[dict[str, Callable[[Node, Sequence[Array]], Array]]] = {
    "Concat": _concat, "Reshape": _reshape, "Transpose": _transpose, "Slice": _slice,
    "Gather": _gather, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "ConstantOfShape": _filled,
    "Cast": _itself, "Identity": _itself,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
}  # fmt: skip
