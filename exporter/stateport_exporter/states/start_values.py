# SPDX-License-Identifier: Apache-2.0
"""The values that a state starts from, cut to one row: they have to be the same for all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from stateport.contract import Axis


def differing_axis(value: NDArray[Any], shape: Sequence[Axis]) -> str | None:
    """The first dynamic axis along which an array is not the same everywhere; None if it is.

    `shape` has a name for each dynamic axis, "batch", and a size for each fixed one.
    """
    for position, axis in enumerate(shape):
        if isinstance(axis, str) and not (value == value.take([0], position)).all():
            return axis
    return None


def one_row(value: NDArray[Any], shape: Sequence[Axis]) -> NDArray[Any]:
    """A copy of an array in which dynamic axes have size 1."""
    cuts = (slice(1) if isinstance(axis, str) else slice(None) for axis in shape)
    return value[tuple(cuts)].copy()
