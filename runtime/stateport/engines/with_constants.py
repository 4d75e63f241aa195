# SPDX-License-Identifier: Apache-2.0
"""An engine with some inputs that are the same in every call, such as a sampling rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ..picking import map_values
from .base import Arrays, Buffer, Buffers, Engine


class ConstantInputs:
    """An engine that adds these inputs to every call."""

    def __init__(self, engine: Engine, constants: Mapping[str, NDArray[Any]]) -> None:
        self.name = engine.name
        self.version = engine.version
        self.precision = engine.precision
        self.max_bound_calls = engine.max_bound_calls
        self._engine = engine
        self._constants = dict(constants)
        self._buffers = map_values(self._buffer, constants)

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once."""
        return self._engine.run({**inputs, **self._constants}, outputs)

    def zeros(self, shape: Sequence[int], dtype: Any) -> Buffer:
        """A buffer of the engine, filled with zeros."""
        return self._engine.zeros(shape, dtype)

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        """A call on these buffers and on those of the constants."""
        return self._engine.bind({**inputs, **self._buffers}, outputs)

    def _buffer(self, array: NDArray[Any]) -> Buffer:
        buffer = self._engine.zeros(array.shape, array.dtype)
        buffer[...] = array
        return buffer
