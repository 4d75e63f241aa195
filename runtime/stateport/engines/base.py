# SPDX-License-Identifier: Apache-2.0
"""The protocol that every engine implements, and a base class for engines in the host's memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..contract import describe
from ..errors import EngineError

Arrays = Mapping[str, NDArray[Any]]

#: Memory in which an engine computes: a NumPy array, or an array on a device that is used like one
#: (`device_array.DeviceArray`).
Buffer = Any
Buffers = Mapping[str, Buffer]


@dataclass(frozen=True)
class EngineFacts:
    """What is known of an engine before a file is loaded into it.

    Attributes:
        packages: the distributions on PyPI whose versions `stateport doctor` shows; by default the
            one that adds the engine.
        install: the command that installs the engine's library; empty where there is none.
        most_threads: the most threads that a call can use; None if any number.
        precisions: by the precision in which operators stored as float32 are computed, the options
            that ask for it. `stateport tune` tries each.
        step_graphs: whether two graphs can work on the same buffers, so that a plan of `tune` may
            have a separate graph for single steps. Only engines in the host's memory can.
        for_speed: whether `tune` tries the engine by default. False for a reference that is slow.
    """

    packages: tuple[str, ...] = ()
    install: str = ""
    most_threads: int | None = None
    precisions: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: {"float32": {}})
    step_graphs: bool = False
    for_speed: bool = True

    def can_use(self, threads: int) -> bool:
        """Whether a call can use this number of threads."""
        return self.most_threads is None or threads <= self.most_threads


class Engine(Protocol):
    """One loaded graph. It is thread-safe and stores no state of a sequence."""

    name: str
    version: str
    precision: str
    """The precision in which operators stored as float32 are computed, as measured: "float32", or a
    lower one that the caller chose and that this processor has."""

    max_bound_calls: int
    """How many bound calls one sequence may cache; each call takes memory."""

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once on all of its inputs, states among them."""

    def zeros(self, shape: Sequence[int], dtype: Any) -> Buffer:
        """A buffer of zeros in the memory where the engine computes."""

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        """A call on these very buffers, states among them, which may be made any number of times.

        It reads the inputs and writes the outputs in place. No output may be an input. Only one
        thread at a time may make the call.
        """


def zeros(engine: Engine, shape: Sequence[int], dtype: str) -> Buffer:
    """A buffer of the engine, filled with zeros.

    Raises:
        EngineError: there is not enough memory.
    """
    try:
        return engine.zeros(shape, dtype)
    except (MemoryError, ValueError) as error:  # NumPy's ValueError: more than it can address
        raise EngineError(
            f"There is no memory for an array {describe(dtype, shape)}: {error}. Use a smaller "
            "batch, fewer streams or shorter chunks."
        ) from error


def answers(engine: Engine, inputs: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Runs the graph once; returns its answers by name.

    Raises:
        EngineError: the engine failed, or gave fewer or more answers than `outputs`.
    """
    results = engine.run(inputs, outputs)
    if len(results) != len(outputs):
        raise EngineError(
            f"{engine.name} gave {len(results)} outputs; {len(outputs)} were asked for: "
            f"{', '.join(outputs)}."
        )
    return dict(zip(outputs, results, strict=True))


def put(engine: Engine, name: str, answer: NDArray[Any], buffer: Buffer) -> None:
    """Copies the answer to the output `name` into its buffer.

    Raises:
        EngineError: the answer has another shape or dtype than the buffer.
    """
    if answer.shape != buffer.shape or answer.dtype != buffer.dtype:
        raise EngineError(
            f"{engine.name} gave {describe(answer.dtype, answer.shape)} for {name!r}, where "
            f"{describe(buffer.dtype, buffer.shape)} was promised."
        )
    buffer[...] = answer


class HostEngine(ABC):
    """An engine that computes in the host's memory; a subclass defines `run` only."""

    name: str
    version: str
    precision = "float32"
    max_bound_calls = 1024

    @abstractmethod
    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once on all of its inputs, states among them.

        Args:
            inputs: by name, every input of the graph; checked against the contract already.
            outputs: the names of the outputs to return.

        Returns:
            An array for each name, in their order, which the engine does not change afterwards.

        Raises:
            EngineError: the engine failed.
        """

    def zeros(self, shape: Sequence[int], dtype: Any) -> Buffer:
        """A NumPy array."""
        return np.zeros(shape, dtype)

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        """A call of `run` that copies the answers into the outputs."""

        def bound() -> None:
            for name, answer in answers(self, inputs, [*outputs]).items():
                put(self, name, answer, outputs[name])

        return bound
