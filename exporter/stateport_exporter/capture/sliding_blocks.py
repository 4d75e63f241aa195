# SPDX-License-Identifier: Apache-2.0
"""`torch.nn.functional.unfold` as slices and views, which can be traced at any size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_Pair = int | tuple[int, int]


def sliding_blocks(
    input: Tensor,  # noqa: A002  # PyTorch's name
    kernel_size: _Pair,
    dilation: _Pair = 1,
    padding: _Pair = 0,
    stride: _Pair = 1,
) -> Tensor:
    """The same numbers as `torch.nn.functional.unfold`, which PyTorch traces at fixed sizes alone.

    Args:
        input: an array of shape (batch, channels, height, width), or without the batch.
        kernel_size: of height and width, or one number for both; so are the others.
        dilation: the distance between two values of a block.
        padding: the number of zeros on each side.
        stride: the distance between two blocks.

    Returns:
        Shape (batch, channels * height * width of the kernel, number of blocks), or without the
        batch.
    """
    if input.dim() == 3:  # the batch is left out
        return sliding_blocks(input[None], kernel_size, dilation, padding, stride)[0]

    height, width = _pair(kernel_size)
    height_dilation, width_dilation = _pair(dilation)
    height_padding, width_padding = _pair(padding)
    height_stride, width_stride = _pair(stride)

    blocks = F.pad(input, (width_padding, width_padding, height_padding, height_padding))
    blocks = blocks.unfold(2, height_dilation * (height - 1) + 1, height_stride)
    blocks = blocks.unfold(3, width_dilation * (width - 1) + 1, width_stride)
    blocks = blocks[..., ::height_dilation, ::width_dilation]

    # (batch, channels, blocks down, blocks across, height, width) -> (batch, values, blocks)
    return blocks.permute(0, 1, 4, 5, 2, 3).flatten(4, 5).flatten(1, 3)


def _pair(value: _Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
