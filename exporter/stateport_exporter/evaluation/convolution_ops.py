# SPDX-License-Identifier: Apache-2.0
"""ONNX's operators of convolutional networks by PyTorch, for onnx's reference.

The formulas are those of https://onnx.ai/onnx/operators/. onnx's own Conv and MaxPool (1.23) copy
every window in a loop of Python: a network for two seconds of sound takes half a minute, and here
two seconds. Its BatchNormalization of the opsets 9 to 13 computes as in training.
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
_MAXIMA: Final = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


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
        extents = _extents(w.shape[2:], dilations)
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


class MaxPool(OpRun):
    """`MaxPool` of the standard domain, in one, two or three dimensions, without indices."""

    op_domain = ""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array]:
        """The maxima of x (batch, channels, ...)."""
        if len(self.onnx_node.output) > 1:
            raise NotImplementedError("indices of maxima are not computed here")

        kernel = attributes["kernel_shape"]
        dims = len(kernel)
        strides = attributes.get("strides") or [1] * dims
        dilations = attributes.get("dilations") or [1] * dims
        pads = attributes.get("pads") or [0] * 2 * dims

        extents = _extents(kernel, dilations)
        padding = _padding(attributes.get("auto_pad") or "NOTSET", pads, x, extents, strides)
        if attributes.get("ceil_mode"):
            padding = _rounded_up(padding, x, extents, strides)

        # PyTorch has no maxima of integers, which float64 holds exactly.
        floats = x if x.dtype.kind == "f" else x.astype(np.float64)
        padded = np.pad(floats, [(0, 0), (0, 0), *padding], constant_values=-np.inf)
        y = _MAXIMA[dims](
            torch.tensor(padded), tuple(kernel), tuple(strides), dilation=tuple(dilations)
        )
        return (y.numpy().astype(x.dtype),)


class BatchNormalization(OpRun):
    """`BatchNormalization` of the standard domain, as it computes outside of training."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, bias: Array, mean: Array, variance: Array, **attributes: Any
    ) -> tuple[Array]:
        """X (batch, channels, ...), normalised by the mean and variance of each channel."""
        if attributes.get("training_mode") or len(self.onnx_node.output) > 1:
            raise NotImplementedError("a file that is run has no statistics of a batch")

        axes = (-1, *[1] * (x.ndim - 2))
        factor = scale / np.sqrt(variance + attributes["epsilon"])
        y = (x - mean.reshape(axes)) * factor.reshape(axes) + bias.reshape(axes)
        return (y.astype(x.dtype),)


OPERATORS: Final = (BatchNormalization, Conv, MaxPool)


def _extents(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """The lengths of a window along each axis, gaps included."""
    return [dilation * (size - 1) + 1 for size, dilation in zip(kernel, dilations, strict=True)]


def _padding(
    kind: str, pads: Sequence[int], x: Array, extents: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """How many elements each axis gets in front and behind."""
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


def _rounded_up(
    padding: Sequence[tuple[int, int]], x: Array, extents: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """The padding with which the last window is whole, if it begins in front of the padding."""
    longer = []
    for size, (before, after), extent, stride in zip(
        x.shape[2:], padding, extents, strides, strict=True
    ):
        steps = -(-(before + size + after - extent) // stride)
        if steps * stride >= before + size:
            steps -= 1
        missing = steps * stride + extent - (before + size + after)
        longer.append((before, after + max(missing, 0)))
    return longer
