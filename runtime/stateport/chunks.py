# SPDX-License-Identifier: Apache-2.0
"""Joins the chunks of several streams into batches, and splits batches into chunks.

A chunk is an array without the batch axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from .plain import PLAIN
from .validation import Array


def alike(chunks: Sequence[object]) -> list[list[int]]:
    """Groups chunks of one class, shape and dtype, of which one has to be checked.

    Returns:
        The positions of the chunks of each group. All values that are not arrays are one group.
    """
    groups: dict[object, list[int]] = {}
    for position, chunk in enumerate(chunks):
        kind = (type(chunk), chunk.shape, chunk.dtype) if isinstance(chunk, np.ndarray) else None
        groups.setdefault(kind, []).append(position)
    return [*groups.values()]


def batch_of_one(chunk: Array, axis: int) -> Array:
    """The chunk with a new batch axis of size 1.

    A value that is not a plain array, or has too few dimensions, is returned as it is.
    """
    if type(chunk) in PLAIN and chunk.ndim >= axis:
        return np.expand_dims(chunk, axis)
    return chunk


def joined(chunks: Sequence[Array], axis: int) -> Array:
    """Stacks chunks of one shape along a new batch axis."""
    return np.moveaxis(np.array(chunks), 0, axis)


def split(
    batches: Sequence[Array], axes: Sequence[int | None], count: int
) -> Iterator[tuple[Array, ...]]:
    """Splits several arrays along their batch axes into `count` rows.

    Yields, for each row of the batch, its part of every array, and a copy of those without a batch.

    Raises:
        ValueError: an array with a batch axis has another number of rows.
    """
    parts: list[Iterable[Array]] = []
    for batch, axis in zip(batches, axes, strict=True):
        if axis is None:
            parts.append([batch.copy() for _ in range(count)])
        elif batch.shape[axis] == count:
            parts.append(np.moveaxis(batch, axis, 0))
        else:
            raise ValueError(f"{batch.shape[axis]} rows along axis {axis}; {count} were expected.")
    return zip(*parts, strict=True)
