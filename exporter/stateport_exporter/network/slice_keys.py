# SPDX-License-Identifier: Apache-2.0
"""What keys such as `[:, :-1]` take of a tensor, or write into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stateport.picking import present


def axis_of_beginning(key: Any, rank: int) -> int | None:
    """The axis whose first elements a key such as `[:, :-1]` takes; None where it does more."""
    sliced = _sliced_axis(key, rank)
    if sliced is None:
        return None
    axis, part = sliced
    begins = _is_none_or(part.start, 0) and _is_none_or(part.step, 1)
    return axis if begins else None


def axis_and_start(key: Any, rank: int) -> tuple[int, int] | None:
    """The axis that a key such as `[:, 1:]` takes from a later index on, and that index."""
    sliced = _sliced_axis(key, rank)
    if sliced is None:
        return None

    axis, part = sliced
    is_behind = isinstance(part.start, int) and part.start > 0
    if not is_behind or part.stop is not None or not _is_none_or(part.step, 1):
        return None
    return axis, part.start


def steps_of_slices(key: Any, rank: int) -> dict[int, int] | None:
    """The steps by axis of slices such as `x[:, ::2]`; None where there are none."""
    parts = key if isinstance(key, tuple) else (key,)
    keys = _keys_by_axis(present(parts), rank)
    if keys is None:
        return None

    steps = {}
    for axis, item in enumerate(keys):
        if isinstance(item, slice) and item.step not in (None, 1):
            steps[axis] = item.step
    return steps or None


def _sliced_axis(key: Any, rank: int) -> tuple[int, slice] | None:
    """The only axis of which a key takes a part, and the slice of it."""
    keys = _keys_by_axis(key if isinstance(key, tuple) else (key,), rank)
    if keys is None:
        return None

    axes = [axis for axis, item in enumerate(keys) if item != slice(None)]
    if len(axes) != 1 or not isinstance(keys[axes[0]], slice):
        return None
    return axes[0], keys[axes[0]]


def _keys_by_axis(keys: Sequence[Any], rank: int) -> list[Any] | None:
    """A slice or an integer for each axis from the first; None for keys of other kinds.

    `...` stands for all axes that no other key is for.
    """
    if not all(isinstance(item, slice | int | type(...)) for item in keys):
        return None

    expanded = list(keys)
    if ... in expanded:
        where = expanded.index(...)
        expanded[where : where + 1] = [slice(None)] * (rank - len(expanded) + 1)
    return None if ... in expanded else expanded


def _is_none_or(value: Any, number: int) -> bool:
    """Whether an index is left out, or is this number; one that is traced is not compared."""
    return value is None or (isinstance(value, int) and value == number)
