# SPDX-License-Identifier: Apache-2.0
"""The dtype and axes of one argument of `forward`, as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Final

import numpy as np
import torch
from torch import Tensor

from stateport.axes import SIZE_LIMIT, fixed_sizes
from stateport.contract import Axis, describe
from stateport.files.reading import MOST_DIMENSIONS, read_npy
from stateport.shown import shown

from ..errors import ExportError

_SPEC = re.compile(
    r"(?P<what>\w+|.*\.npy)\[(?P<shape>[^\]]*)\](?::(?P<low>-?[0-9]+)\.\.(?P<high>-?[0-9]+))?"
)
_SIZE = re.compile(r"-?[0-9]+")
_MOST_DIGITS: Final = 20  # all integers of 64 bits, with a sign


@dataclass(frozen=True, init=False)
class Spec:
    """The dtype and shape of one argument of `forward`.

    Args:
        dtype: a PyTorch dtype's name: "float32", "int64", "bool", ...
        shape: a size, or a name for a dynamic axis, per dimension. "batch" and "time" say which
            axis is which.
        low: for integers, the smallest value that the network takes; 0 by default.
        high: for integers, the largest; 1 by default, which every vocabulary has.

    `Spec.parse("int64[batch,time]:0..96")` reads the forms that the command line takes.

    Attributes:
        example_time: the number of time steps of the tensor or file that the spec was made of, at
            which the network is traced if it can be; None where there is none.
    """

    dtype: str
    shape: tuple[Axis, ...]
    low: int
    high: int
    example_time: int | None = field(default=None, compare=False, repr=False)

    def __init__(self, dtype: str, *shape: Axis, low: int = 0, high: int = 1) -> None:
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ExportError(
                f"{shown(dtype)} is not a dtype of PyTorch; 'float32' or 'int64' are."
            )
        _check_shape(shape)
        _check_range(low, high)

        for name, value in (("dtype", dtype), ("shape", shape), ("low", low), ("high", high)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "example_time", None)

    def __str__(self) -> str:
        return describe(self.dtype, self.shape)

    @classmethod
    def of(cls, tensor: Tensor, *axes: Axis) -> Spec:
        """The dtype, range and length of an example tensor, and the names of its axes.

        Raises:
            ExportError: the axes are not one per dimension, or a size is not the tensor's.
        """
        if not _fits(axes, tensor.shape):
            raise ExportError(
                f"A tensor of shape {tuple(tensor.shape)} cannot have the axes {axes}; name every "
                "dimension, or repeat its size."
            )

        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_floating_point() or tensor.is_complex() or tensor.numel() == 0:
            spec = cls(dtype, *axes)
        else:
            array = tensor.numpy(force=True)  # PyTorch has no extremes of uint16 and larger
            spec = cls(dtype, *axes, low=int(array.min()), high=int(array.max()))

        if "time" in axes:
            object.__setattr__(spec, "example_time", int(tensor.shape[axes.index("time")]))
        return spec

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Reads `float32[batch,time,5]`, `int64[batch,time]:0..96` or `x.npy[batch,time,5]`.

        The second says which integers occur; the third takes dtype and range from a file.

        Raises:
            ExportError: the text is of none of these forms, or the file is not what it should be.
        """
        match = _SPEC.fullmatch(text.strip())
        if match is None:
            raise ExportError(
                f"{shown(text)} is not a dtype and a shape, or a .npy file and its axes; write "
                "float32[batch,time,5], int64[batch,time]:0..96 or x.npy[batch,time,5]."
            )

        shape = _parse_axes(match["shape"])
        if match["what"].endswith(".npy"):
            return cls.of(_read_tensor(match["what"]), *shape)

        low = _integer(match["low"] or "0")
        high = _integer(match["high"] or "1")
        return cls(match["what"], *shape, low=low, high=high)

    def make(self, sizes: Mapping[str, int], random: np.random.Generator) -> Tensor:
        """A random tensor: standard normal, or uniform over the integers from low to high."""
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in self.shape]
        dtype: torch.dtype = getattr(torch, self.dtype)
        if dtype.is_floating_point:
            return torch.from_numpy(random.standard_normal(shape)).to(dtype)

        return torch.from_numpy(random.integers(self.low, self.high + 1, shape)).to(dtype)


def is_spec(text: str) -> bool:
    """Whether a text is of a form that `Spec.parse` reads."""
    return _SPEC.fullmatch(text.strip()) is not None


def _check_shape(shape: tuple[Axis, ...]) -> None:
    for axis in shape:
        if not _is_axis(axis):
            raise ExportError(f"{shown(axis)} is neither a size nor the name of an axis.")

    if len(shape) > MOST_DIMENSIONS or prod(fixed_sizes(shape)) >= SIZE_LIMIT:
        raise ExportError(
            f"{shown(shape)} is no shape of an example; at most {MOST_DIMENSIONS} dimensions "
            f"are, and fewer than {SIZE_LIMIT} elements along those whose sizes are fixed."
        )


def _check_range(low: int, high: int) -> None:
    if low > high:
        raise ExportError(f"The smallest value {shown(low)} is above the largest, {shown(high)}.")

    if not -(2**63) <= low <= high < 2**63 - 1:
        raise ExportError(f"{shown(low)} to {shown(high)} is no range of 64-bit integers.")


def _is_axis(axis: object) -> bool:
    if isinstance(axis, str):
        return axis.isidentifier()

    return isinstance(axis, int) and 0 < axis < SIZE_LIMIT


def _fits(axes: Sequence[Axis], shape: torch.Size) -> bool:
    """Whether there is an axis for each dimension, and no size differs."""
    if len(axes) != len(shape):
        return False

    return all(isinstance(a, str) or a == size for a, size in zip(axes, shape, strict=True))


def _parse_axes(text: str) -> list[Axis]:
    """Reads "batch,time,5"; empty parts are skipped."""
    axes: list[Axis] = []
    for part in map(str.strip, text.split(",")):
        if _SIZE.fullmatch(part):
            axes.append(_integer(part))
        elif part:
            axes.append(part)
    return axes


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ExportError(f"{shown(digits)} is no 64-bit integer: it has {len(digits)} digits.")

    return int(digits)


def _read_tensor(path: str) -> Tensor:
    """The array in a .npy file.

    Raises:
        ExportError: PyTorch does not have its dtype.
        FileError: the file cannot be read, or is no .npy file.
    """
    array = read_npy(path)
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:  # float128; another byte order than this machine's
        raise ExportError(
            f"{path} holds {array.dtype}, which PyTorch does not support. Save it in another dtype."
        ) from error
