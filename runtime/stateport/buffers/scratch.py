# SPDX-License-Identifier: Apache-2.0
"""Memory that buffers of all sizes share, because only one call at a time uses it."""

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
    """Buffers that are in use only during a call, so that buffers of all sizes share memory.

    On a device, each buffer has separate memory.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shared = isinstance(engine.zeros((1,), np.uint8), np.ndarray)
        self._memory: dict[tuple[str, str], Buffer] = {}

    def buffer(self, role: str, spec: ArraySpec, sizes: Mapping[str, int]) -> Buffer:
        """A buffer for an array in a role; other roles and names have other memory."""
        shape = resolve(spec.shape, sizes)
        dtype = np.dtype(spec.dtype)
        if not self._shared:
            return zeros(self._engine, shape, spec.dtype)

        needed = prod(shape) * dtype.itemsize
        memory = self._memory.get((role, spec.name), _NOTHING)
        if len(memory) < needed:
            # Calls that are bound to the previous memory keep it alive, and remain valid.
            memory = zeros(self._engine, (max(needed, 2 * len(memory)),), "uint8")
            self._memory[role, spec.name] = memory
        return memory[:needed].view(dtype).reshape(shape)
