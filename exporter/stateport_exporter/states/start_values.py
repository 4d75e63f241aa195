# SPDX-License-Identifier: Apache-2.0
"""The values that a state starts from, cut to one row: they have to be the same for all rows.

They count as the same where they differ by rounding: PyTorch computes a row otherwise in a larger
batch, as where a state comes from a layer that runs over a learned token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stateport.contract import Axis

#: The share of the largest value by which float32 may be off in a wide layer over a few steps.
_ROUNDING: Final = 1e-5


def are_same(value: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether two values of a state, of shapes that fit, are the same but for rounding."""
    if value.dtype.kind != "f":
        return bool((value == expected).all())

    largest = np.abs(expected).max(initial=0, where=np.isfinite(expected))
    return np.allclose(value, expected, rtol=0, atol=_ROUNDING * largest, equal_nan=True)


def differing_axis(value: NDArray[Any], shape: Sequence[Axis]) -> str | None:
    """The first dynamic axis along which an array is not the same everywhere; None if it is.

    `shape` has a name for each dynamic axis, "batch", and a size for each fixed one.
    """
    for position, axis in enumerate(shape):
        if isinstance(axis, str) and not are_same(value, value.take([0], position)):
            return axis
    return None


def one_row(value: NDArray[Any], shape: Sequence[Axis]) -> NDArray[Any]:
    """A copy of an array in which dynamic axes have size 1."""
    cuts = (slice(1) if isinstance(axis, str) else slice(None) for axis in shape)
    return value[tuple(cuts)].copy()
