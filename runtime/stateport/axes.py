# SPDX-License-Identifier: Apache-2.0
"""The axes of a shape: sizes, names, and expressions of names such as "8*(time//8)"."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from math import prod
from typing import Final, TypeGuard

from .picking import instances_of

#: A size, or the name of a dynamic axis, or an expression. "batch" and "time" are reserved names.
Axis = int | str

#: Fixed sizes, and numbers in expressions, are below this.
SIZE_LIMIT: Final = 1 << 31
#: A longer text is a name and not an expression, which also bounds the depth of expressions.
_LONGEST: Final = 400
#: A computed shape of more elements is refused, before memory is allocated for it.
_MOST_ELEMENTS: Final = 1 << 31

_OPERATIONS: Final[dict[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def resolve(shape: Iterable[Axis], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape with its axes replaced by sizes.

    Raises:
        KeyError: the size of an axis is not known, or a computed size is impossible.
    """
    axes = (*shape,)
    resolved = tuple(axis if isinstance(axis, int) else _size(axis, sizes) for axis in axes)

    computed = any(isinstance(axis, str) and axis not in sizes for axis in axes)
    if computed and (min(resolved) < 0 or prod(resolved) > _MOST_ELEMENTS):
        raise KeyError(axes)
    return resolved


def is_count(value: object, least: int, most: int | None = None) -> TypeGuard[int]:
    """Whether a value is an integer (no bool), at least `least` and at most `most`, if given."""
    if type(value) is not int or value < least:
        return False
    return most is None or value <= most


def dynamic_axes(shape: Iterable[Axis]) -> list[str]:
    """The axes of a shape that have a name, or are computed from names, and no size."""
    return instances_of(str, shape)


def fixed_sizes(shape: Iterable[Axis]) -> list[int]:
    """The sizes of the axes that have one."""
    return instances_of(int, shape)


def with_known_sizes(shape: Iterable[Axis], sizes: Mapping[str, int]) -> list[Axis]:
    """The shape with sizes in place of the axes that have one."""
    return [axis if isinstance(axis, int) else sizes.get(axis, axis) for axis in shape]


def of_one_row(shape: Iterable[Axis]) -> tuple[int, ...]:
    """The sizes of a state's first value in a file, which has one row along axes with a name."""
    return tuple(axis if isinstance(axis, int) else 1 for axis in shape)


def without_brackets(axis: Axis) -> Axis:
    """The same axis without brackets around the whole of it: "time//8" for "(time//8)"."""
    if isinstance(axis, int) or not axis.startswith("("):
        return axis
    try:
        same = ast.dump(_parse(axis)) == ast.dump(_parse(axis[1:-1]))
    except KeyError:  # "(a)+(b)" without its ends is no expression
        return axis
    if same:
        return without_brackets(axis[1:-1])
    return axis


def names_in(axis: Axis) -> frozenset[str]:
    """The names of the axes that an axis is computed from: "time" for "8*(time//8)".

    Raises:
        KeyError: the axis is not an expression.
    """
    if isinstance(axis, int):
        return frozenset()
    nodes = ast.walk(_parse(axis))
    return frozenset(node.id for node in nodes if isinstance(node, ast.Name))


def impossible(axis: Axis) -> str | None:
    """The part of an expression that no size can be computed with, such as "a division by 0"."""
    if isinstance(axis, int) or axis.isidentifier():
        return None
    try:
        nodes = [*ast.walk(_parse(axis))]
    except KeyError:  # a name that is not an expression
        return None

    for node in nodes:
        match node:
            case ast.BinOp(op=ast.FloorDiv(), right=ast.Constant(value=0)):
                return "a division by 0"
            case ast.Constant(value=int(number)) if number >= SIZE_LIMIT:
                return f"a number of {SIZE_LIMIT} or more"
    return None


def _size(axis: str, sizes: Mapping[str, int]) -> int:
    if axis in sizes:
        return sizes[axis]
    return _evaluate(_parse(axis), axis, sizes)


@lru_cache(maxsize=256)
def _parse(axis: str) -> ast.expr:
    if len(axis) > _LONGEST:
        raise KeyError(axis)
    try:
        return ast.parse(axis.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise KeyError(axis) from None


def _evaluate(node: ast.expr, axis: str, sizes: Mapping[str, int]) -> int:
    """The value of whole numbers, names, + - * // and brackets; `KeyError` for anything else."""
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return sizes[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, axis, sizes)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            a = _evaluate(left, axis, sizes)
            b = _evaluate(right, axis, sizes)
            divides_by_zero = b == 0 and isinstance(op, ast.FloorDiv)
            if not divides_by_zero:
                return _OPERATIONS[type(op)](a, b)

    raise KeyError(axis)
