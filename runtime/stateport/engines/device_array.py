# SPDX-License-Identifier: Apache-2.0
"""An array in the memory of ONNX Runtime's device, for the buffers of streams and pools."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract import describe
from .failure import failure

Array = NDArray[Any]


class DeviceArray:
    """An array on a device, with the few operations of a NumPy array that buffers use.

    `array[...] = x` copies to the device, and `copy()` back to the host. Reading or writing some
    rows alone copies the whole array through the host's memory.
    """

    def __init__(
        self, ort: ModuleType, shape: Sequence[int], dtype: Any, device: tuple[str, int]
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        try:
            #: The OrtValue that the engine is bound to; the same one as long as the array lives.
            self.value: Any = ort.OrtValue.ortvalue_from_shape_and_type(
                [*shape], self.dtype, *device
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base but this
            raise failure(
                f"The GPU has no memory for {describe(self.dtype, shape)}: {error}", error
            ) from error
        self[...] = np.zeros(self.shape, self.dtype)

    def copy(self) -> Array:
        """A copy in the host's memory."""
        return np.array(self.value.numpy())

    def take(self, rows: Array, axis: int, out: Any = None, mode: Any = "raise") -> Any:
        """The rows along an axis, as `numpy.ndarray.take` returns them."""
        taken = self.copy().take(rows, axis, mode=mode)
        if out is None:
            return taken
        out[...] = taken
        return out

    def __getitem__(self, key: Any) -> Array:
        part: Array = self.copy()[key]
        return part

    def __setitem__(self, key: Any, value: Any) -> None:
        array = value.copy() if isinstance(value, DeviceArray) else value
        if isinstance(key, EllipsisType):
            whole = np.broadcast_to(array, self.shape)
        else:
            whole = self.copy()
            whole[key] = array

        if whole.size:
            # update_inplace copies bytes: the dtype has to be right already.
            self.value.update_inplace(np.ascontiguousarray(whole, self.dtype))
