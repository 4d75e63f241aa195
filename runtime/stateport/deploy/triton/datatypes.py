# SPDX-License-Identifier: Apache-2.0
"""Dtypes and shapes as Triton's `model_config.proto` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...contract import Axis

#: NumPy's name of a dtype -> the name in Triton's configuration.
TYPES: Final = {
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    **{
        f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


def dims_of(shape: Sequence[Axis], *, batched: bool) -> list[int]:
    """The `dims` of an array: -1 for each dynamic axis.

    Args:
        shape: the size of each fixed axis, and the name of each dynamic one.
        batched: whether `max_batch_size` is above 0, so that the batch axis is left out.
    """
    axes = [axis for axis in shape if not (batched and axis == "batch")]
    return [axis if isinstance(axis, int) else -1 for axis in axes]
