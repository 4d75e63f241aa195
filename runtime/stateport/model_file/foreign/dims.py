# SPDX-License-Identifier: Apache-2.0
"""Shapes of a graph's values, in which the axis that grows with time is marked.

A dimension is a size, a name, or None where it is unknown. The name of a dimension that grows with
time is "time", or contains that word: "batch*time", and "~time" where it is unknown how it grows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import starmap, zip_longest
from typing import Final

from ...picking import present

Dim = int | str | None
Dims = tuple[Dim, ...]

_TIME: Final = re.compile(r"\btime\b")
#: Products of sizes stop at this number; larger products of names are unknown.
_LARGEST: Final = 2**62
_MOST_NAMES: Final = 4
#: Longer shapes are not followed, nor longer lists of sizes.
MOST_DIMS: Final = 16
MOST_NUMBERS: Final = 64


@dataclass(frozen=True)
class Value:
    """What is known about a value of the graph.

    Attributes:
        dims: its dimensions; None where even the number of dimensions is unknown.
        origins: the inputs of the graph whose data it depends on, as one bit per input.
        content: its elements, where it is a short list of integers, such as a shape or axes.
        counter: whether it is the number of a loop's iteration.
        context: whether its time axis begins with steps that a state holds.
    """

    dims: Dims | None = None
    origins: int = 0
    content: Dims | None = None
    counter: bool = False
    context: bool = False

    @property
    def first(self) -> Dim:
        """The first element of its content; None where that is unknown or empty."""
        return self.content[0] if self.content else None


def grows(dim: Dim) -> bool:
    """Whether a dimension grows with time."""
    return isinstance(dim, str) and _TIME.search(dim) is not None


def time_of(dims: Dims | None) -> int | None:
    """The first axis that grows with time; None where no axis is known to grow."""
    for axis, dim in enumerate(dims or ()):
        if grows(dim):
            return axis
    return None


def may_grow(dims: Dims | None) -> bool:
    """Whether it is unknown if a dimension grows with time, or which one does."""
    return dims is None or (time_of(dims) is None and None in dims)


def has_axis(dims: Sequence[Dim], axis: int) -> bool:
    """Whether there is an axis of this number, which is below zero if counted from the back."""
    return -len(dims) <= axis < len(dims)


def axes_from_front(axes: Iterable[Dim], rank: int) -> set[int]:
    """The axes that are known, counted from the front: -1 becomes the last of `rank` axes."""
    return {axis % rank for axis in axes if isinstance(axis, int)}


def with_axis(dims: Dims, axis: int, *replacement: Dim) -> Dims:
    """The dimensions with those of `replacement`, if any, in the position of one axis."""
    return (*dims[:axis], *replacement, *dims[axis + 1 :])


def without_axes(dims: Dims, axes: Collection[int]) -> Dims:
    """The dimensions of all other axes."""
    return tuple(dim for axis, dim in enumerate(dims) if axis not in axes)


def broadcast(shapes: Sequence[Dims | None]) -> Dims | None:
    """The shape of an element-wise result; None where it is unknown.

    An operand of unknown shape is left out if another operand has a time axis.
    """
    known = present(shapes)
    has_time = any(time_of(dims) is not None for dims in known)
    if len(known) < len(shapes) and not has_time:
        return None

    joined: Dims = ()
    for dims in known:
        # Shapes are aligned at their last axes.
        pairs = zip_longest(reversed(joined), reversed(dims), fillvalue=1)
        joined = tuple(reversed([*starmap(_wider, pairs)]))
    return joined


def _wider(a: Dim, b: Dim) -> Dim:
    if grows(a) or b == 1:
        return a
    if grows(b) or a == 1:
        return b

    # A size says more than a name, and a name more than nothing.
    return a if b is None or isinstance(a, int) else b


def merged(a: Dims | None, b: Dims | None) -> Dims | None:
    """The shape of a value that has one of two shapes: what both agree on, and the time axes."""
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple(map(_merged_dim, a, b))


def _merged_dim(a: Dim, b: Dim) -> Dim:
    if a == b or grows(a):
        return a
    return b if grows(b) else None


def reshaped(dims: Dims | None, target: Dims | None) -> Dims | None:
    """The shape of Reshape's result.

    Args:
        dims: the shape of the data.
        target: the operand that holds the new shape; in it, 0 copies a dimension of `dims`, and -1
            is what is left of their product.
    """
    if target is None:
        return None

    result = [_copied_dim(dims, axis) if dim == 0 else dim for axis, dim in enumerate(target)]
    if -1 not in result:
        return tuple(result)

    others = [dim for dim in result if dim != -1]
    left = _left_dim(dims, others)
    return tuple(left if dim == -1 else dim for dim in result)


def _copied_dim(dims: Dims | None, axis: int) -> Dim:
    if dims is None or axis >= len(dims):
        return None
    return dims[axis]


def _left_dim(dims: Dims | None, others: Sequence[Dim]) -> Dim:
    """The dimension that -1 means.

    Where it cannot be computed, it holds time if no other dimension does.
    """
    left = rest(dims, others)
    if left is not None or time_of(dims) is None:
        return left
    if any(map(grows, others)):
        return None
    return "~time"


def rest(dims: Dims | None, divisors: Sequence[Dim]) -> Dim:
    """The product of all dimensions, divided by the product of `divisors`; None if unknown."""
    if dims is None or None in dims or None in divisors:
        return None

    names, size = _factors(dims)
    divisor_names, divisor = _factors(divisors)
    if divisor_names - names:
        return None
    if divisor == 0 or size % divisor != 0:
        return None

    return _product(names - divisor_names, size // divisor)


def _factors(dims: Iterable[Dim]) -> tuple[Counter[str], int]:
    """The names in the product of the dimensions, and the number that they are multiplied by."""
    names = Counter[str]()
    size = 1

    for dim in dims:
        for factor in str(dim).split("*"):
            if factor.isascii() and factor.isdigit():
                size = min(size * int(factor[:18]), _LARGEST)
            else:
                names[factor] += 1
    return names, size


def _product(names: Counter[str], number: int) -> Dim:
    """The product as a dimension: "batch*time*2"."""
    factors = sorted(names.elements())
    if not factors:
        return number
    if len(factors) > _MOST_NAMES:
        if any(map(grows, factors)):
            return "~time"
        return None

    if number != 1:
        factors.append(str(number))
    return "*".join(factors)
