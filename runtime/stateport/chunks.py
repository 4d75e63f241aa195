"""Chunks of several streams, an array each without the batch axis, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .plain import PLAIN
from .validation import Array


def alike(chunks: Sequence[object]) -> list[list[int]]:
    """The positions of chunks that one check is enough for: of one class, shape and dtype."""
    groups: dict[object, list[int]] = {}
    for position, chunk in enumerate(chunks):
        kind = (type(chunk), chunk.shape, chunk.dtype) if isinstance(chunk, np.ndarray) else None
        groups.setdefault(kind, []).append(position)
    return [*groups.values()]


def batch_of_one(chunk: Array, axis: int) -> Array:
    """A chunk with a batch axis; what is no plain array, or too small, stays as it is."""
    if type(chunk) in PLAIN and chunk.ndim >= axis:
        return np.expand_dims(chunk, axis)
    return chunk


def joined(chunks: Sequence[Array], axis: int) -> Array:
    """Chunks of one shape along a new batch axis."""
    return np.moveaxis(np.array(chunks), 0, axis)


def split(batches: Sequence[Array], axes: Sequence[int]) -> Iterator[tuple[Array, ...]]:
    """Of several arrays, each with its batch axis, the parts of one row after the other."""
    each = [np.moveaxis(batch, axis, 0) for batch, axis in zip(batches, axes, strict=True)]
    return zip(*each, strict=True)
