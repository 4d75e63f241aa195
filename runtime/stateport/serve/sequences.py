# SPDX-License-Identifier: Apache-2.0
"""The streams of one model: started, stepped in order, kept in a store, expired and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ..contract import names_of
from ..errors import StreamingError
from ..printable import printable
from ..rounds import Answer, LostStepError, Rounds, answer_of
from ..state import State
from .codec import unpack_state
from .digest import digest_of_inputs
from .errors import ServeError, Status
from .gone import Gone, GoneStreams
from .keeper import ENDED_FOR, Keeper
from .live import Generation, Live, Numbered
from .observe import Observer
from .request import LARGEST_ID, LONGEST_ID, Array, Request, SequenceId, is_unicode
from .served import Served
from .stores import ABSENT, ANY, Conflict, Record
from .turns import Turns, settled

_LOG: Final = logging.getLogger("stateport.serve")

#: How often a step is made anew because another server stepped the stream first.
_MOST_TRIES: Final = 5

Outputs = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How many streams there may be, and for how long.

    Attributes:
        capacity: how many streams are in memory at most.
        idle: seconds after which a stream that is not used expires.
        per_client: how many streams one client may have; None for any number.
    """

    capacity: int
    idle: float
    per_client: int | None = None


class Sequences:
    """The streams of one model.

    The requests of one stream run one after the other. What a request has begun it finishes, also
    if its client goes away: the step, its number and its record change together.

    With a store, a stream in memory is a copy of its record. If saving fails, the copy is dropped,
    so that it never runs ahead of the record; the next request reads the record.
    """

    def __init__(
        self,
        served: Served,
        limits: StreamLimits,
        keeper: Keeper,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._served = served
        self._limits = limits
        self._keeper = keeper
        self._observer = observer
        self._clock = clock

        self._turns = Turns()
        #: In the order of their last use.
        self._live: OrderedDict[SequenceId, Live] = OrderedDict()
        self._clients: dict[str, int] = {}
        self._opening = 0
        self._gone = GoneStreams()
        self._names = names_of(served.contract.outputs)
        self._generations: list[Generation] = []
        self._refusal: StreamingError | None = None
        try:
            self._generations.append(self._generation(served))
        except StreamingError as error:
            self._refusal = error

    def __len__(self) -> int:
        """How many streams are in memory."""
        return len(self._live)

    @property
    def is_behind(self) -> bool:
        """Whether the store lacks a step for longer than it may."""
        now, behind = self._clock(), self._keeper.behind
        times = (live.unsaved for live in self._live.values() if live.unsaved is not None)
        return now - min(times, default=now) > 2 * behind + 1.0

    async def infer(self, request: Request) -> Outputs:
        """Makes a step of a stream, or gives the recorded answer of one that is repeated.

        Raises:
            ServeError: the stream is unknown, or the request is refused.
            InputError: an array does not fit the contract. The stream is as before.
            EngineError: the engine failed. The stream is as before.
        """
        sequence = _checked_id(self._served.name, request)
        if self._refusal is not None:
            raise ServeError(
                Status.UNSUPPORTED,
                f"The model '{self._served.name}' takes no sequences: {self._refusal}",
            )

        await self._turns.take(sequence)
        try:
            return await self._infer(request, sequence)
        finally:
            self._turns.give(sequence)

    def replace(self, served: Served) -> None:
        """New streams start on this model; live ones stay on theirs."""
        if self._refusal is None:
            self._generations.append(self._generation(served))
        self._served = served

    async def expire(self) -> None:
        """Ends the streams that were not used for too long."""
        for live in [*self._live.values()]:
            if not self._is_expired(live):
                break
            if live.id in self._turns:
                continue
            await self._turns.take(live.id)
            try:
                await self._end_expired(live)
            finally:
                self._turns.give(live.id)

        self._gone.expire(self._clock())
        await self._retire()

    async def flush(self) -> None:
        """Saves what the store has not yet (`behind` mode)."""
        unsaved = [live for live in self._live.values() if live.claimed_until]
        await asyncio.gather(*map(self._flush, unsaved))

    async def stop(self) -> None:
        """Saves what is unsaved, and closes all streams of this process."""
        with contextlib.suppress(Exception):
            await self.release()
        for generation in self._generations:
            await generation.rounds.stop()
        self._live.clear()
        self._observer.streams(self._served.name, 0)

    async def release(self) -> None:
        """Saves what is unsaved, and lets other servers use the streams (`behind` mode)."""
        claimed = [live for live in self._live.values() if live.claimed_until]
        await asyncio.gather(*[self._flush(live, release=True) for live in claimed])

    # Requests

    async def _infer(self, request: Request, sequence: SequenceId) -> Outputs:
        """Makes the step; anew if another server was first."""
        digest = b"" if request.step is None else digest_of_inputs(request.inputs)
        for _ in range(_MOST_TRIES):
            try:
                if request.start:
                    return await self._start(request, sequence, digest)
                return await self._go_on(request, sequence, digest)
            except Conflict:
                self._drop(sequence, "fenced")

        raise ServeError(
            Status.UNAVAILABLE,
            f"Other servers step sequence {sequence} of model '{self._served.name}' at the same "
            "time. Send its requests one after the other.",
            retry_after=0.1,
        )

    async def _go_on(self, request: Request, sequence: SequenceId, digest: bytes) -> Outputs:
        """A request of a stream that was started before."""
        live = self._find(sequence)
        if live is not None and self._may_be_stale(live, request):
            self._drop(sequence, "fenced")
            live = None
        if live is None:
            record = await self._keeper.load(sequence)
            if record is None or record.ended or not record.step:
                return self._ended_answer(request, sequence, digest, record)
            live = await self._adopt(sequence, request.client, record)

        repeated = self._repeated(request, sequence, live.step, live.last, digest)
        if repeated is not None:
            return repeated
        return await self._step(live, request, digest)

    async def _start(self, request: Request, sequence: SequenceId, digest: bytes) -> Outputs:
        """A request that starts a stream, and ends the one of that id that there may be."""
        if request.step not in (None, 1):
            raise ServeError(
                Status.INVALID,
                f"inference request for sequence {sequence} to model '{self._served.name}' has the "
                f"START flag and step {request.step}; a sequence starts with step 1.",
            )
        generation = self._generations[-1]
        generation.rounds.check(request.inputs)

        version = ANY
        if request.step is not None:
            version, repeated = await self._started_already(sequence, digest)
            if repeated is not None:
                return repeated

        if sequence in self._live:
            _LOG.warning(
                "sequence %s of model %s is started anew, which ends the one that runs",
                printable(str(sequence)),
                self._served.name,
            )
            self._drop(sequence, "started anew")
        live = await self._open(sequence, request.client, generation, None)
        live.version = version
        try:
            return await self._step(live, request, digest)
        except Conflict:
            raise
        except BaseException:
            if not live.step:
                # It has not begun, and the one of that id that there was has ended all the same.
                self._drop(sequence, "failed")
                with contextlib.suppress(ServeError, Conflict):
                    await self._keeper.delete(sequence, live.version)
            raise

    async def _started_already(
        self, sequence: SequenceId, digest: bytes
    ) -> tuple[str, Outputs | None]:
        """The version of the record that is replaced; the answer if this very step was made."""
        last, version = None, ANY
        if self._keeper.is_durable:
            record = await self._keeper.load(sequence)
            version = ABSENT if record is None else record.version
            if record is not None and self._is_ours(record):
                last = _last_of(record)
        elif sequence in self._live:
            last = self._live[sequence].last
        elif (gone := self._gone.get(sequence)) is not None:
            last = gone.last

        if last is not None and last.step == 1 and last.inputs == digest:
            return version, last.answer(self._names)
        return version, None

    async def _step(self, live: Live, request: Request, digest: bytes) -> Outputs:
        """Makes a step: the engine, then the record, then the answer."""
        keeper = self._keeper
        if keeper.saves_behind:
            await self._claim(live)

        generation = live.generation
        wants_state = keeper.saves_before and not request.end
        pending = generation.rounds.step(live.stream, request.inputs, wants_state)
        try:
            answer, was_cancelled = await answer_of(pending)
        except LostStepError:
            self._drop(live.id, "failed")
            raise

        outputs = self._count(live, request, answer, digest)
        try:
            was_cancelled |= await self._record_step(live, request, answer)
        except ServeError:
            self._drop(live.id, "failed")
            raise
        if was_cancelled:
            raise asyncio.CancelledError
        return outputs

    def _count(self, live: Live, request: Request, answer: Answer, digest: bytes) -> Outputs:
        served = live.generation.served
        served.statistics.count_step(answer.waited, answer.ran, answer.batch)
        self._observer.step(served.name, answer.waited, answer.ran, answer.batch)

        outputs = dict(zip(self._names, answer.outputs, strict=True))
        live.step += 1
        live.last = None
        if request.step is not None:
            # A row of a batch would keep the whole batch in memory.
            copies = {name: array.copy() for name, array in outputs.items()}
            live.last = Numbered(live.step, digest, copies)
        live.used = self._clock()
        return outputs

    async def _record_step(self, live: Live, request: Request, answer: Answer) -> bool:
        """Writes what the durability asks for; returns whether the caller was cancelled."""
        if request.end:
            was_cancelled = False
            if self._keeper.is_durable:
                was_cancelled = await self._keeper.end(live)
            self._drop(live.id, "ended")
            return was_cancelled

        if answer.state is not None:
            return await self._keeper.save(live, answer.state)
        if self._keeper.saves_behind and live.unsaved is None:
            live.unsaved = self._clock()
        return False

    def _repeated(
        self,
        request: Request,
        sequence: SequenceId,
        step: int,
        last: Numbered | None,
        digest: bytes,
    ) -> Outputs | None:
        """The recorded answer, if the request repeats the last step; None if it is the next."""
        if request.step is None or request.step == step + 1:
            return None

        where = f"inference request for sequence {sequence} to model '{self._served.name}'"
        if request.step == step and last is not None:
            if last.inputs == digest:
                return last.answer(self._names)
            raise ServeError(
                Status.INVALID,
                f"{where} repeats step {step} with other inputs; step {step + 1} was expected, or "
                "the same inputs.",
            )
        raise ServeError(
            Status.INVALID,
            f"{where} has step {request.step}; step {step + 1} was expected, because the sequence "
            f"has made {step}.",
        )

    def _ended_answer(
        self, request: Request, sequence: SequenceId, digest: bytes, record: Record | None
    ) -> Outputs:
        """The recorded answer to the last request of a stream that ended, if it is repeated."""
        gone = self._gone.get(sequence)
        last = _last_of(record) or (gone.last if gone is not None else None)
        if last is not None and request.step == last.step and last.inputs == digest:
            return last.answer(self._names)
        raise self._unknown(sequence)

    def _unknown(self, sequence: SequenceId) -> ServeError:
        gone = self._gone.get(sequence)
        reason = "it was never started, has ended, or expired" if gone is None else gone.reason
        return ServeError(
            Status.INVALID,
            f"inference request for sequence {sequence} to model '{self._served.name}' must "
            "specify the START flag on the first request of the sequence. There is no such "
            f"sequence: {reason}.",
        )

    # Streams in memory

    def _find(self, sequence: SequenceId) -> Live | None:
        """The stream in memory, marked as used."""
        live = self._live.get(sequence)
        if live is None:
            return None
        if self._is_expired(live) and not self._keeper.is_durable:
            self._drop(sequence, "idle")
            return None
        self._live.move_to_end(sequence)
        return live

    def _may_be_stale(self, live: Live, request: Request) -> bool:
        """Whether another server may have made steps that decide about this request's number."""
        if not self._keeper.is_durable or request.step in (None, live.step + 1):
            return False
        return not (self._keeper.saves_behind and self._keeper.is_claimed(live))

    async def _adopt(self, sequence: SequenceId, client: str, record: Record) -> Live:
        """The stream of a record, in memory."""
        generation = self._generation_of(sequence, record)
        state = unpack_state(record.state)
        live = await self._open(sequence, client, generation, state)
        live.version = record.version
        live.step = record.step
        live.last = _last_of(record)
        return live

    def _is_ours(self, record: Record) -> bool:
        """Whether a model of this server made the record."""
        return any(generation.served.digest == record.model for generation in self._generations)

    def _generation_of(self, sequence: SequenceId, record: Record) -> Generation:
        for generation in reversed(self._generations):
            if generation.served.digest == record.model:
                return generation
        raise ServeError(
            Status.INVALID,
            f"The stored state of sequence {sequence} belongs to another model, with the digest "
            f"{record.model[:16]}; the model '{self._served.name}' here has "
            f"{self._served.digest[:16]}. Begin the sequence anew with the START flag.",
        )

    async def _open(
        self, sequence: SequenceId, client: str, generation: Generation, state: State | None
    ) -> Live:
        """A new stream in memory."""
        self._check_client(client)
        while len(self._live) + self._opening >= self._limits.capacity:
            await self._make_room()

        # They count before they are open, because others may be opened meanwhile.
        self._opening += 1
        self._clients[client] = self._clients.get(client, 0) + 1
        try:
            opening = generation.rounds.open(state)
            was_cancelled = await settled(opening)
            live = Live(sequence, client, generation, opening.result(), self._clock())
        except BaseException:
            self._leave(client)
            raise
        finally:
            self._opening -= 1

        self._live[sequence] = live
        self._gone.forget(sequence)
        generation.live += 1
        self._observer.streams(self._served.name, len(self._live))
        if was_cancelled:
            self._drop(sequence, "failed")
            raise asyncio.CancelledError
        return live

    def _check_client(self, client: str) -> None:
        most = self._limits.per_client
        if most is not None and self._clients.get(client, 0) >= most:
            raise ServeError(
                Status.EXHAUSTED,
                f"This client has {most} live streams of model '{self._served.name}', which is the "
                "limit. End one of them first.",
                retry_after=1.0,
            )

    async def _make_room(self) -> None:
        """Lets the stream that was not used for longest go to the store."""
        if self._keeper.is_durable and self._live:
            idle = (live for live in self._live.values() if live.id not in self._turns)
            # Where all are in use, the one that was used first is waited for. Whoever has its turn
            # waits for no room, because its stream is in memory.
            return await self._evict(next(idle, next(iter(self._live.values()))))
        raise ServeError(
            Status.EXHAUSTED,
            f"The model '{self._served.name}' has {self._limits.capacity} live streams, which is "
            "the limit of this server. End a stream, or start this one later.",
            retry_after=1.0,
        )

    async def _evict(self, live: Live) -> None:
        """Drops a stream whose record is up to date."""
        await self._turns.take(live.id)
        try:
            if self._live.get(live.id) is not live:
                return
            if live.claimed_until:
                with contextlib.suppress(Conflict):  # then another server has the stream
                    await self._save(live, claimed=False)
            self._drop(live.id, "room")
        finally:
            self._turns.give(live.id)

    def _drop(self, sequence: SequenceId, reason: str) -> None:
        """Removes a stream from memory. Its record is left as it is."""
        live = self._live.pop(sequence, None)
        if live is None:
            return
        closing = live.generation.rounds.close(live.stream)
        closing.add_done_callback(_log_failure)
        live.generation.live -= 1

        self._leave(live.client)
        self._observer.streams(self._served.name, len(self._live))
        if reason not in ("ended", "started anew"):
            self._observer.evicted(self._served.name, reason)
        self._remember(live, reason)

    def _leave(self, client: str) -> None:
        """Counts one stream less for a client."""
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]

    def _remember(self, live: Live, reason: str) -> None:
        """Remembers why a stream is gone for good."""
        now, idle = self._clock(), self._limits.idle
        if reason == "ended":
            last = live.last
            self._gone.add(live.id, Gone("it has ended", now + min(idle, ENDED_FOR), last))
        elif reason == "idle":
            words = f"it expired, because no request came for {idle:g} seconds"
            self._gone.add(live.id, Gone(words, now + idle))

    def _is_expired(self, live: Live) -> bool:
        return self._clock() - live.used > self._limits.idle

    async def _end_expired(self, live: Live) -> None:
        if self._live.get(live.id) is not live or not self._is_expired(live):
            return
        if live.claimed_until:
            try:
                await self._save(live, claimed=False)
            except Conflict:
                pass
            except ServeError:
                return  # the store does not answer; the next time may succeed
        self._drop(live.id, "idle")

    # Behind the answer

    async def _claim(self, live: Live) -> None:
        """Makes sure of the claim, and that the store is not too far behind."""
        is_late = live.unsaved is not None and self._clock() - live.unsaved > self._keeper.behind
        if is_late or not self._keeper.is_claimed(live):
            try:
                await self._save(live, claimed=True)
            except ServeError:
                if not self._keeper.is_claimed(live):
                    self._drop(live.id, "failed")
                raise

    async def _flush(self, live: Live, release: bool = False) -> None:
        """Saves a stream's state; lets go of a stream that made no step since the last time."""
        await self._turns.take(live.id)
        try:
            if self._live.get(live.id) is not live or not live.claimed_until:
                return
            if live.unsaved is None and not release and self._keeper.is_claimed(live):
                return
            await self._save(live, claimed=live.unsaved is not None and not release)
        except Conflict:
            self._drop(live.id, "fenced")
        except ServeError as error:
            _LOG.warning("sequence %s could not be saved: %s", printable(str(live.id)), error)
        finally:
            self._turns.give(live.id)

    async def _save(self, live: Live, *, claimed: bool) -> None:
        reading = live.generation.rounds.state(live.stream)
        was_cancelled = await settled(reading)
        was_cancelled |= await self._keeper.save(live, reading.result(), claimed=claimed)
        if was_cancelled:
            raise asyncio.CancelledError

    # Models

    def _generation(self, served: Served) -> Generation:
        return Generation(served, Rounds(served.model, self._limits.capacity))

    async def _retire(self) -> None:
        """Lets models go that were replaced, and that no stream uses any more."""
        for generation in self._generations[:-1]:
            if not generation.live:
                self._generations.remove(generation)
                await generation.rounds.stop()


def _last_of(record: Record | None) -> Numbered | None:
    """The last step of a record, if it had a number."""
    if record is None or not record.inputs:
        return None
    return Numbered(record.step, record.inputs, record.answer)


def _checked_id(model: str, request: Request) -> SequenceId:
    sequence = request.sequence
    if type(sequence) is int and 0 < sequence <= LARGEST_ID:
        return sequence
    if isinstance(sequence, str) and sequence:
        if len(sequence) <= LONGEST_ID and is_unicode(sequence):
            return sequence
        raise ServeError(
            Status.INVALID,
            f"inference request to model '{model}' has a correlation ID of {len(sequence)} "
            f"characters; Unicode of at most {LONGEST_ID} characters was expected.",
        )

    raise ServeError(
        Status.INVALID,
        f"inference request to model '{model}' must specify a non-zero or non-empty correlation "
        f"ID: an integer from 1 to 2**64 - 1, or a text of at most {LONGEST_ID} characters.",
    )


def _log_failure(closing: asyncio.Future[None]) -> None:
    if not closing.cancelled() and closing.exception() is not None:
        _LOG.error("a stream could not be closed: %s", closing.exception())
