# SPDX-License-Identifier: Apache-2.0
"""What a store keeps of a stream, and what every store does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

#: In place of a version: the record is written whatever there is.
ANY: Final = "*"
#: In place of a version: the record is written only if there is none.
ABSENT: Final = "-"


class StoreError(Exception):
    """The store did not answer, or not in time. What was asked for may have happened."""


class Conflict(Exception):  # noqa: N818  # it is no error of the store
    """The record in the store has another version than the writer expected: it has moved on."""


@dataclass(frozen=True, slots=True)
class Record:
    """A stream outside of a process.

    Attributes:
        version: a random text that every write changes; writers compare it.
        model: the digest of the model that the state belongs to.
        step: how many steps the stream has made.
        state: the state after them, as `State.save` writes it (safetensors).
        answer: the outputs of the last step (safetensors); empty if that step had no number.
        inputs: the digest of that step's inputs; empty if it had no number.
        ended: whether the stream has ended, and only its last answer is kept.
        holder: the server that has newer steps than the record; empty if none has.
        held_until: when the holder's claim ends, in seconds since 1970.
        idle: seconds after which the record expires.
    """

    version: str
    model: str
    step: int
    state: bytes
    answer: bytes = b""
    inputs: bytes = b""
    ended: bool = False
    holder: str = ""
    held_until: float = 0.0
    idle: float = 600.0


class Store(Protocol):
    """Records by key. Every operation returns the result to come, which needs no waiter.

    Operations that are asked for while the store works run together, as one transaction.
    """

    name: str
    """What it is called in messages; no password is in it."""

    is_durable: bool
    """False for the store that keeps nothing: streams live in their process alone."""

    async def open(self) -> None:
        """Connects. A store that cannot be reached yet is no error.

        Raises:
            FileError: the store's folder or file cannot be used.
        """

    async def close(self) -> None:
        """Ends the operations that run, and disconnects."""

    async def check(self) -> None:
        """Asks the store for a sign of life.

        Raises:
            StoreError: there is none.
        """

    def load(self, key: str) -> asyncio.Future[Record | None]:
        """Reads a record; None if there is none, or if it expired.

        Raises:
            StoreError: the store does not answer.
        """

    def save(self, key: str, record: Record, expected: str) -> asyncio.Future[None]:
        """Writes a record if the one that there is has the expected version.

        A record that is there already with the version to write counts as written, so that an
        operation may be repeated.

        Raises:
            Conflict: it has another version, or there is none. Nothing is written.
            StoreError: the store does not answer. It may be written all the same.
        """

    def delete(self, key: str, expected: str) -> asyncio.Future[None]:
        """Removes a record if it has the expected version; none at all is no conflict.

        Raises:
            Conflict: it has another version.
            StoreError: the store does not answer.
        """
