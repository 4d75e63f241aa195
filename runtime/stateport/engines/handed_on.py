"""An engine of a graph some of whose outputs are its inputs, handed on under the same name."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Arrays, Buffer, Buffers, Engine, answers


class HandedOn:
    """Copies these inputs itself: engines that work in bound buffers do not write such outputs."""

    def __init__(self, engine: Engine, names: Set[str]) -> None:
        self.name = engine.name
        self.version = engine.version
        self.precision = engine.precision
        self.keeps = engine.keeps
        self._engine = engine
        self._names = names

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once; every array is new."""
        computed = [name for name in outputs if name not in self._names]
        results = answers(self._engine, inputs, computed) if computed else {}
        return [
            np.array(inputs[name], order="C") if name in self._names else results[name]
            for name in outputs
        ]

    def zeros(self, shape: Sequence[int], dtype: Any) -> Buffer:
        """A buffer of the engine's."""
        return self._engine.zeros(shape, dtype)

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        """A call on these buffers."""
        computed = {name: buffer for name, buffer in outputs.items() if name not in self._names}
        call = self._engine.bind(inputs, computed) if computed else None
        copied = [(outputs[name], inputs[name]) for name in outputs if name in self._names]

        def bound() -> None:
            if call is not None:
                call()
            for output, input_ in copied:
                output[...] = input_

        return bound
