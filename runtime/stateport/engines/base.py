"""What an engine is: the small protocol between stateport and whatever executes the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

#: Where an engine computes: an array of NumPy, or one on a device that is used like it
#: (`device.DeviceArray`).
Buffer = Any
Buffers = Mapping[str, Buffer]


class Engine(Protocol):
    """One loaded graph. It is thread-safe and holds no state of a sequence."""

    name: str
    version: str
    precision: str
    """In what the engine computes what the file says in float32: "float32", or less by choice."""

    keeps: int
    """How many bound calls a carrier keeps prepared, by the memory that each of them takes."""

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once on all of its inputs, states among them."""

    def zeros(self, shape: Sequence[int], dtype: Any) -> Buffer:
        """A buffer of zeros in the memory where the engine computes."""

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        """A call on these very buffers, states among them, to be made as often as needed.

        It reads the inputs and writes the outputs where they are. No output may be an input. It has
        one owner.
        """
