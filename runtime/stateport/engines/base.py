"""What an engine is: the small protocol between stateport and whatever executes the graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


class Carrier(Protocol):
    """One live sequence inside an engine: it keeps the state where the engine computes.

    It has one owner. A call that fails leaves the state as it was.
    """

    def step(self, inputs: Sequence[NDArray[Any]], shapes: Hashable) -> list[NDArray[Any]]:
        """Runs one chunk, the contract's inputs in order, and keeps the next state.

        `shapes` is another for inputs of other shapes, so that what is prepared can be found.
        Returns the contract's outputs, in order; they are the caller's to keep.
        """

    def write(self, state: Arrays) -> None:
        """Replaces the state; the arrays are copied, and keyed by the state inputs' names."""

    def read(self) -> dict[str, NDArray[Any]]:
        """A copy of the state, keyed by the state inputs' names."""


class Engine(Protocol):
    """One loaded graph. It is thread-safe and holds no state of a sequence."""

    name: str
    version: str
    precision: str
    """In what the engine computes what the file says in float32: "float32", or less by choice."""

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once on all of its inputs, states among them."""

    def carrier(self) -> Carrier:
        """A new live sequence. Its state is to be written before the first step."""

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        """A call on these very arrays, states among them, to be made as often as needed.

        It reads the inputs and writes the outputs where they are, in the host's memory. It has one
        owner.
        """
