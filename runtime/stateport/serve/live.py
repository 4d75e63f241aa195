# SPDX-License-Identifier: Apache-2.0
"""A live stream in this process, and the model that it runs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import FileError
from ..rounds import Rounds
from .codec import damaged, pack, unpack
from .request import Array, SequenceId
from .served import Served
from .stores import ABSENT


@dataclass(slots=True, eq=False)
class Generation:
    """A model, and the pool of the streams that run on it.

    Attributes:
        served: the model.
        rounds: its pool.
        live: how many streams run on it.
    """

    served: Served
    rounds: Rounds
    live: int = 0


@dataclass(frozen=True, slots=True)
class Numbered:
    """The last step of a stream, if the request gave its number.

    Attributes:
        step: its number.
        inputs: the digest of its inputs.
        outputs: its answer, as arrays by name or as `codec.pack` wrote it.
    """

    step: int
    inputs: bytes
    outputs: Mapping[str, Array] | bytes

    @property
    def nbytes(self) -> int:
        """The size of the answer."""
        if isinstance(self.outputs, bytes):
            return len(self.outputs)
        return sum(array.nbytes for array in self.outputs.values())

    def answer(self, names: Sequence[str]) -> Mapping[str, Array]:
        """The outputs with these names, in this order, which the record itself does not have.

        Raises:
            FileError: the record in the store is damaged, or has other outputs.
        """
        outputs = unpack(self.outputs) if isinstance(self.outputs, bytes) else self.outputs
        if outputs.keys() != {*names}:
            problem = f"it has the outputs {sorted(outputs)}; {sorted(names)} were expected"
            raise damaged(FileError(problem))
        return {name: outputs[name] for name in names}

    def packed(self) -> bytes:
        """The outputs as bytes."""
        return self.outputs if isinstance(self.outputs, bytes) else pack(self.outputs)


@dataclass(slots=True, eq=False)
class Live:
    """A live stream in this process.

    Attributes:
        id: the sequence's id.
        client: who started it.
        generation: the model that it runs on.
        stream: its number in the pool.
        used: when it was used last, by the service's clock.
        step: how many steps it has made.
        last: the last step, if it had a number.
        version: the version of its record in the store.
        unsaved: when the oldest step was made that the store has not; None if it has all.
        claimed_until: until when no other server may use the stream, in seconds since 1970.
    """

    id: SequenceId
    client: str
    generation: Generation
    stream: int
    used: float
    step: int = 0
    last: Numbered | None = None
    version: str = ABSENT
    unsaved: float | None = None
    claimed_until: float = 0.0
