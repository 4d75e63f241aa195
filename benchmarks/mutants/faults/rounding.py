"""float32 arrays as lower precisions would keep them."""

from __future__ import annotations

from typing import Final

import numpy as np

from .graph import Array, Edit


def _half(array: Array) -> Array:
    return array.astype(np.float16)


def _mantissa(bits: int) -> Edit:
    """So many bits of the significand, rounded to nearest."""

    def edit(array: Array) -> Array:
        fraction, exponent = np.frexp(array)
        scale = 2.0 ** (bits + 1)  # frexp's fraction is below 1, a significand below 2
        return np.asarray(np.ldexp(np.round(fraction * scale) / scale, exponent))

    return edit


def _truncated(array: Array) -> Array:
    """tf32: ten bits of the significand, the rest cut off."""
    return (array.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def _int8(array: Array) -> Array:
    """One scale for the whole array."""
    scale = np.abs(array).max() / 127
    return np.asarray(np.round(array / scale) * scale)


ROUNDINGS: Final[dict[str, Edit]] = {
    "float16": _half,
    "bfloat16": _mantissa(7),
    "tf32": _truncated,
    "int8": _int8,
}
