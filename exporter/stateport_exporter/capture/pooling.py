# SPDX-License-Identifier: Apache-2.0
"""`torch.max_pool1d` as `torch.max_pool2d`, which can be traced at any size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_Size = int | tuple[int, ...]


def max_pool1d(
    input: Tensor,  # noqa: A002  # PyTorch's name
    kernel_size: _Size,
    stride: _Size | None = None,
    padding: _Size = 0,
    dilation: _Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The same numbers as `torch.max_pool1d`, which PyTorch traces at one length alone.

    Args:
        input: an array of shape (batch, channels, time), or without the batch.
        kernel_size: the number of steps in each window; it is the stride too, where none is given.
        stride: the number of steps from one window to the next.
        padding: the number of steps before and behind, smaller than any number.
        dilation: the distance between two steps of a window.
        ceil_mode: whether a last window may be cut off.
        return_indices: whether the positions of the largest values are wanted too.
    """
    if return_indices:
        sizes = (kernel_size, stride, padding, dilation, ceil_mode)
        return F.max_pool1d(input, *sizes, return_indices=True)

    kernel = _along_time(kernel_size, 1)
    pooled = F.max_pool2d(
        input.unsqueeze(-1),
        kernel,
        _along_time(stride, 1) if stride else kernel,
        _along_time(padding, 0),
        _along_time(dilation, 1),
        ceil_mode,
    )
    return torch.squeeze(pooled, -1)


def _along_time(size: _Size, rest: int) -> tuple[int, int]:
    """The size along time, and that along the axis behind it."""
    return (size if isinstance(size, int) else size[0], rest)
