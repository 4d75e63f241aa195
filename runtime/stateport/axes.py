"""The axes of a shape: sizes, names, and what is computed from names, as "8*(time//8)"."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from math import prod
from typing import Final

#: A size, or the name of a dynamic axis. "batch" and "time" are reserved names.
Axis = int | str

#: A fixed size, and a number that an axis is computed with, is below this.
SIZE_LIMIT: Final = 1 << 31
#: A longer text is a name. It also bounds how deep the calculation is nested.
_LONGEST: Final = 400
#: A shape of more elements, if it is computed, is not believed: no memory is taken for it.
_MOST_ELEMENTS: Final = 1 << 31

_OPERATIONS: Final[dict[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def resolve(shape: Iterable[Axis], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape with its axes replaced by sizes; `KeyError` for an axis whose size is not known."""
    axes = (*shape,)
    resolved = tuple(axis if isinstance(axis, int) else _size(axis, sizes) for axis in axes)
    computed = any(isinstance(axis, str) and axis not in sizes for axis in axes)
    if computed and (min(resolved) < 0 or prod(resolved) > _MOST_ELEMENTS):
        raise KeyError(axes)
    return resolved


def names_in(axis: Axis) -> frozenset[str]:
    """The names of the axes that an axis is computed from: "8*(time//8)" from time.

    `KeyError` where it is no such expression.
    """
    if isinstance(axis, int):
        return frozenset()
    return frozenset(node.id for node in ast.walk(_parsed(axis)) if isinstance(node, ast.Name))


def impossible(axis: Axis) -> str | None:
    """What no size can be computed with, if an axis is computed with that: "a division by 0"."""
    if isinstance(axis, int) or axis.isidentifier():
        return None
    try:
        nodes = [*ast.walk(_parsed(axis))]
    except KeyError:  # a name that is no expression
        return None

    for node in nodes:
        match node:
            case ast.BinOp(op=ast.FloorDiv(), right=ast.Constant(value=0)):
                return "a division by 0"
            case ast.Constant(value=int(number)) if number >= SIZE_LIMIT:
                return f"a number of {SIZE_LIMIT} or more"
    return None


def _size(axis: str, sizes: Mapping[str, int]) -> int:
    return sizes[axis] if axis in sizes else _evaluated(_parsed(axis), axis, sizes)


@lru_cache(maxsize=256)
def _parsed(axis: str) -> ast.expr:
    if len(axis) > _LONGEST:
        raise KeyError(axis)
    try:
        return ast.parse(axis.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise KeyError(axis) from None


def _evaluated(node: ast.expr, axis: str, sizes: Mapping[str, int]) -> int:
    """Whole numbers, names, + - * // and brackets; `KeyError` for anything else."""
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return sizes[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluated(operand, axis, sizes)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            a, b = _evaluated(left, axis, sizes), _evaluated(right, axis, sizes)
            if b or not isinstance(op, ast.FloorDiv):
                return _OPERATIONS[type(op)](a, b)
    raise KeyError(axis)
