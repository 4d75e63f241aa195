# SPDX-License-Identifier: Apache-2.0
"""The keeper: writes the streams of one model to the store, and reads them back.

In `before` mode the store has every step before its answer leaves, so that any server can go on
with the stream; who compares the version and finds another one reads the record anew.

In `behind` mode a server first claims a stream in the store, for a few seconds. It then answers
steps that the store has not, and saves the newest state soon afterwards. No other server uses a
stream while it is claimed. A server whose claim ended, because the store was cut off, stops using
the stream.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Final, TypeVar

from ..state import State
from .durability import Durability
from .errors import ServeError, Status
from .live import Live
from .observe import Observer
from .request import SequenceId
from .stores import Record, Store, StoreError
from .turns import settled

_T = TypeVar("_T")

#: How long a claim lasts beyond the time that the store may be behind, in seconds.
_CLAIM: Final = 2.0
#: How long the last answer of a stream that ended is kept for a repeated request, in seconds.
ENDED_FOR: Final = 60.0
#: When to come back if the store did not answer, in seconds.
_RETRY: Final = 1.0


class Keeper:
    """Writes and reads the records of one model's streams."""

    def __init__(
        self, model: str, store: Store, durability: Durability, idle: float, observer: Observer
    ) -> None:
        self._model = model
        self._store = store
        self._durability = durability
        self._idle = idle
        self._observer = observer
        self._server = uuid.uuid4().hex

    @property
    def is_durable(self) -> bool:
        """Whether streams are kept outside of the process."""
        return self._store.is_durable

    @property
    def saves_before(self) -> bool:
        """Whether a state is saved before its answer leaves."""
        return self.is_durable and self._durability.behind is None

    @property
    def saves_behind(self) -> bool:
        """Whether a state is saved soon after its answer has left."""
        return self.is_durable and self._durability.behind is not None

    @property
    def behind(self) -> float:
        """How many seconds a state may be unsaved."""
        return self._durability.behind or 0.0

    async def load(self, sequence: SequenceId) -> Record | None:
        """The record of a stream; None if there is none.

        Raises:
            ServeError: UNAVAILABLE, the store does not answer, or another server has newer steps.
        """
        if not self.is_durable:
            return None

        record, was_cancelled = await self._done(self._store.load(self._key(sequence)), "load", 1)
        if was_cancelled:
            raise asyncio.CancelledError
        if record is None or record.holder in ("", self._server):
            return record

        left = record.held_until - time.time()
        if left > 0:
            raise ServeError(
                Status.UNAVAILABLE,
                f"sequence {sequence} of model '{self._model}' is used by another server, whose "
                f"newest steps are not in the store yet. Send the request there, or again in "
                f"{left:.1f} seconds.",
                retry_after=left,
            )
        return record

    async def save(self, live: Live, state: State, *, claimed: bool = False) -> bool:
        """Writes a stream's state, its step and its last answer.

        Returns:
            Whether the caller was cancelled meanwhile.

        Raises:
            Conflict: another server has written the record.
            ServeError: UNAVAILABLE, the store does not answer.
        """
        until = time.time() + self.behind + _CLAIM if claimed else 0.0
        record = self._record(live, state.to_bytes(), until)
        was_cancelled = await self._write(live, record)
        live.unsaved = None
        live.claimed_until = until
        return was_cancelled

    async def end(self, live: Live) -> bool:
        """Removes a stream that ended, or keeps its last answer for a while if it had a number.

        Returns:
            Whether the caller was cancelled meanwhile.

        Raises:
            Conflict: another server has written the record.
            ServeError: UNAVAILABLE, the store does not answer.
        """
        if live.last is not None:
            return await self._write(live, self._record(live, b"", 0.0, ended=True))
        return await self.delete(live.id, live.version)

    async def delete(self, sequence: SequenceId, expected: str) -> bool:
        """Removes a record; returns and raises as `end`."""
        if not self.is_durable:
            return False
        deleted = self._store.delete(self._key(sequence), expected)
        _, was_cancelled = await self._done(deleted, "delete", 1)
        return was_cancelled

    def is_claimed(self, live: Live) -> bool:
        """Whether no other server may use a stream for long enough to make a step."""
        return live.claimed_until - time.time() > _CLAIM / 2

    async def _write(self, live: Live, record: Record) -> bool:
        saved = self._store.save(self._key(live.id), record, live.version)
        _, was_cancelled = await self._done(saved, "save", 1)
        live.version = record.version
        return was_cancelled

    def _record(
        self, live: Live, state: bytes, held_until: float, *, ended: bool = False
    ) -> Record:
        last = live.last
        return Record(
            version=uuid.uuid4().hex,
            model=live.generation.served.digest,
            step=live.step,
            state=state,
            answer=b"" if last is None else last.packed(),
            inputs=b"" if last is None else last.inputs,
            ended=ended,
            holder=self._server if held_until else "",
            held_until=held_until,
            idle=min(self._idle, ENDED_FOR) if ended else self._idle,
        )

    async def _done(
        self, operation: asyncio.Future[_T], name: str, records: int
    ) -> tuple[_T, bool]:
        """Waits for an operation of the store, to its end."""
        began = time.perf_counter()
        was_cancelled = await settled(operation)
        self._observer.stored(self._model, name, time.perf_counter() - began, records)
        try:
            return operation.result(), was_cancelled
        except StoreError as error:
            raise ServeError(
                Status.UNAVAILABLE,
                f"The store {self._store.name} does not answer: {error}. The stream is as it was "
                "saved last. Send the request again, with its sequence_step if it had one.",
                retry_after=_RETRY,
            ) from error

    def _key(self, sequence: SequenceId) -> str:
        kind = "i" if isinstance(sequence, int) else "s"
        return f"{self._model}/{kind}{sequence}"
