# SPDX-License-Identifier: Apache-2.0
"""Two graphs of one network as one engine: one for single steps, one for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from ..contract import Contract
from .base import Arrays, Buffer, Buffers, Engine


class StepAndWhole:
    """An engine that has a separate graph for calls in which time is 1.

    Both graphs work in the host's memory, on the same arrays, so that a sequence changes from one
    graph to the other without a copy of its state.
    """

    def __init__(self, contract: Contract, whole: Engine, step: Engine) -> None:
        self.name = whole.name
        self.version = whole.version
        self.precision = whole.precision
        self.max_bound_calls = min(whole.max_bound_calls, step.max_bound_calls)
        self._whole = whole
        self._step = step
        self._time = next(s for s in contract.inputs if "time" in s.shape)
        self._axis = self._time.shape.index("time")

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph that fits the chunk."""
        return self._fitting(inputs).run(inputs, outputs)

    def zeros(self, shape: Sequence[int], dtype: Any) -> Buffer:
        """A buffer for both graphs."""
        return self._whole.zeros(shape, dtype)

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        """The call of the graph that fits the chunk."""
        return self._fitting(inputs).bind(inputs, outputs)

    def _fitting(self, inputs: Buffers) -> Engine:
        one_step = inputs[self._time.name].shape[self._axis] == 1
        return self._step if one_step else self._whole
