"""Memory that buffers of all sizes share, because one call alone uses it at a time."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Final

import numpy as np

from ..contract import ArraySpec, resolve
from ..engines import Buffer, Engine
from ..engines.base import zeros

_NOTHING: Final = np.zeros(0, np.uint8)


class Scratch:
    """Buffers that are in use during a call alone, so that those of all sizes share their memory.

    On a device, each has memory of its own.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shared = isinstance(engine.zeros((1,), np.uint8), np.ndarray)
        self._whole: dict[tuple[str, str], Buffer] = {}

    def buffer(self, role: str, spec: ArraySpec, sizes: Mapping[str, int]) -> Buffer:
        """A buffer for an array in this role; those of another role or name are elsewhere."""
        shape, dtype = resolve(spec.shape, sizes), np.dtype(spec.dtype)
        if not self._shared:
            return zeros(self._engine, shape, spec.dtype)
        needed = prod(shape) * dtype.itemsize
        whole = self._whole.get((role, spec.name), _NOTHING)
        if len(whole) < needed:
            # Calls that are bound to the memory before this one keep it, and go on working.
            whole = zeros(self._engine, (max(needed, 2 * len(whole)),), "uint8")
            self._whole[role, spec.name] = whole
        return whole[:needed].view(dtype).reshape(shape)
