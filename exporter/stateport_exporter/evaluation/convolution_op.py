# SPDX-License-Identifier: Apache-2.0
"""ONNX's Conv by PyTorch's convolutions, for onnx's reference.

The formula is that of https://onnx.ai/onnx/operators/onnx__Conv.html. onnx's own implementation
(1.23) copies every window in a loop of Python: a network for two seconds of sound takes half a
minute, and here less than a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from torch.nn import functional

Array = NDArray[Any]

#: By the number of axes behind batch and channels.
_CONVOLUTIONS: Final = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class Conv(OpRun):
    """`Conv` of the standard domain, in one, two or three dimensions."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int | None = None,
        kernel_shape: Sequence[int] | None = None,  # noqa: ARG002  (it is that of the weights)
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        """The convolution of x (batch, channels, ...) with w (results, channels / group, ...)."""
        dims = x.ndim - 2
        strides = strides or [1] * dims
        dilations = dilations or [1] * dims
        extents = []
        for size, dilation in zip(w.shape[2:], dilations, strict=True):
            extents.append(dilation * (size - 1) + 1)

        padding = _padding(auto_pad or "NOTSET", pads or [0] * 2 * dims, x, extents, strides)
        padded = np.pad(x, [(0, 0), (0, 0), *padding])
        with torch.no_grad():
            y = _CONVOLUTIONS[dims](
                torch.tensor(padded),
                torch.tensor(w),
                None if b is None else torch.tensor(b),
                stride=tuple(strides),
                dilation=tuple(dilations),
                groups=group or 1,
            )
        return (y.numpy(),)


def _padding(
    kind: str, pads: Sequence[int], x: Array, extents: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """The zeros in front of each axis and behind it."""
    dims = len(extents)
    if kind == "NOTSET":
        return list(zip(pads[:dims], pads[dims:], strict=True))
    if kind == "VALID":
        return [(0, 0)] * dims

    padding = []
    for size, extent, stride in zip(x.shape[2:], extents, strides, strict=True):
        results = -(-size // stride)
        missing = max((results - 1) * stride + extent - size, 0)
        less, more = missing // 2, missing - missing // 2
        padding.append((less, more) if kind == "SAME_UPPER" else (more, less))
    return padding
