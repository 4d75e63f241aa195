"""Shapes in which it is followed which axis grows with time.

A dimension is a size, a name, or None where it is not known. What grows with time is "time", or has
that word in it: "batch*time", and "~time" where it is not known how.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

Dim = int | str | None
Dims = tuple[Dim, ...]

_TIME: Final = re.compile(r"\btime\b")
#: Sizes are not multiplied beyond this, nor names.
_LARGEST: Final = 2**62
_MOST_NAMES: Final = 4
#: Arrays have no more dimensions, and lists of sizes no more numbers.
MOST_DIMS: Final = 16
MOST_NUMBERS: Final = 64


@dataclass(frozen=True)
class Value:
    """What is known of a value of the graph.

    Attributes:
        dims: its dimensions; None where not even their number is known.
        origins: the graph's inputs whose data it depends on, a bit each.
        content: its elements, where it is a short list of integers, as shapes and axes are.
        counter: whether it is the number of a loop's round.
        context: whether steps from a state stand in front of its own.
    """

    dims: Dims | None = None
    origins: int = 0
    content: Dims | None = None
    counter: bool = False
    context: bool = False


def grows(dim: Dim) -> bool:
    """Whether a dimension grows with time."""
    return isinstance(dim, str) and _TIME.search(dim) is not None


def time_of(dims: Dims | None) -> int | None:
    """The axis that grows with time; None where none does, or that is not known."""
    return next((axis for axis, dim in enumerate(dims or ()) if grows(dim)), None)


def may_grow(dims: Dims | None) -> bool:
    """Whether it is not known if, or which, dimension grows with time."""
    return dims is None or (time_of(dims) is None and None in dims)


def broadcast(shapes: Sequence[Dims | None]) -> Dims | None:
    """The shape of what is computed element by element."""
    known = [dims for dims in shapes if dims is not None]
    if len(known) < len(shapes) and not any(time_of(dims) is not None for dims in known):
        return None
    joined: Dims = ()
    for dims in known:
        pairs = zip_longest(reversed(joined), reversed(dims), fillvalue=1)
        joined = tuple(reversed([_wider(a, b) for a, b in pairs]))
    return joined


def _wider(a: Dim, b: Dim) -> Dim:
    if grows(a) or b == 1:
        return a
    if grows(b) or a == 1:
        return b
    return a if b is None or isinstance(a, int) else b


def merged(a: Dims | None, b: Dims | None) -> Dims | None:
    """What is known of a value that has one of two shapes."""
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple(
        x if x == y or grows(x) else (y if grows(y) else None) for x, y in zip(a, b, strict=True)
    )


def reshaped(dims: Dims | None, content: Dims | None) -> Dims | None:
    """The shape that Reshape gives, from the shape that it is told: 0 keeps, -1 is what is left."""
    if content is None:
        return None
    kept = [
        (dims[axis] if dims is not None and axis < len(dims) else None) if dim == 0 else dim
        for axis, dim in enumerate(content)
    ]
    if -1 not in kept:
        return tuple(kept)
    others = [dim for dim in kept if dim != -1]
    left = rest(dims, others)
    if left is None and dims is not None and time_of(dims) is not None:
        left = None if any(map(grows, others)) else "~time"
    return tuple(left if dim == -1 else dim for dim in kept)


def rest(dims: Dims | None, others: Sequence[Dim]) -> Dim:
    """What is left of the product of all dimensions when it is divided by others."""
    if dims is None or None in dims or None in others:
        return None
    names, size = _factors(dims)
    divided, by = _factors(others)
    if divided - names or by == 0 or size % by:
        return None
    left = sorted((names - divided).elements())
    if len(left) > _MOST_NAMES:
        return "~time" if any(map(grows, left)) else None
    numbers = [str(size // by)] if size != by else []
    return "*".join([*left, *numbers]) if left else size // by


def _factors(dims: Iterable[Dim]) -> tuple[Counter[str], int]:
    """The names and the number whose product the dimensions are."""
    names, size = Counter[str](), 1
    for dim in dims:
        for factor in str(dim).split("*"):
            if factor.isascii() and factor.isdigit():
                size = min(size * int(factor[:18]), _LARGEST)
            else:
                names[factor] += 1
    return names, size
