# SPDX-License-Identifier: Apache-2.0
"""The server without its transports: models, the streams of each, and answers to requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from os import PathLike
from time import perf_counter
from typing import Final

from ..contract import names_of
from ..errors import InputError, StateportError, StreamingError
from ..model import Model, load
from ..picking import without
from .digest import digest_of
from .durability import Durability
from .errors import ServeError, Status, brief
from .keeper import Keeper
from .observe import Observer, Silent
from .request import Array, Request, Response
from .sequences import Sequences, StreamLimits
from .served import Served
from .stateless import Stateless
from .stores import Store, StoreError, open_store

ModelSource = str | PathLike[str] | Model

_LOG: Final = logging.getLogger("stateport.serve")


class Service:
    """Models by name, and the streams of each.

    >>> service = Service({"lstm": "model.onnx"})
    >>> await service.start()
    >>> response = await service.infer(Request("lstm", {"x": x}, sequence=1, start=True))
    >>> await service.stop(grace=10)

    All methods are to be called in one event loop.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSource],
        *,
        engine: str | None = None,
        plan: str | PathLike[str] | None = None,
        capacity: int = 1024,
        idle: float = 600.0,
        store: str | Store = "memory",
        durability: str = "before",
        most_streams_per_client: int | None = None,
        queue_limit: int = 4096,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Describes a server; `start` loads the models.

        Args:
            models: a file, or a loaded model, for each name.
            engine: the engine of the files; by default "ort-cpu".
            plan: a file that `stateport tune` wrote, if there is one model.
            capacity: how many streams each model has in memory at most.
            idle: seconds after which a stream that is not used expires.
            store: where streams are kept: "memory", "file:DIR", "redis://...", or a store.
            durability: "before", or "behind" with a number of milliseconds: "behind:100".
            most_streams_per_client: how many live streams one client may have; None for any.
            queue_limit: how many requests of one model may be under way at once.
            observer: is told of each event, for metrics.
            clock: the time in seconds, which only grows.

        Raises:
            InputError: a value is none of these.
        """
        if not models:
            raise InputError("No models are given; a name and a file were expected, at least once.")
        self._sources = dict(models)
        self._engine = engine
        self._plan = plan
        self._limits = StreamLimits(capacity, idle, most_streams_per_client)
        self._store = open_store(store) if isinstance(store, str) else store
        self._durability = Durability.of(durability)
        self._queue_limit = queue_limit
        self._observer: Observer = observer or Silent()
        self._clock = clock

        self._stateless = Stateless(capacity, self._observer)
        self._served: dict[str, Served] = {}
        self._sequences: dict[str, Sequences] = {}
        self._pending: dict[str, int] = {}
        self._is_started = False
        self._is_stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def models(self) -> Mapping[str, Served]:
        """The models that are served, by name."""
        return self._served

    def find(self, name: str, version: str = "") -> Served:
        """A model by its name, and by its version unless that is "".

        Raises:
            ServeError: NOT_FOUND, there is no such model.
        """
        served = self._served.get(name)
        if served is not None and version in ("", served.version):
            return served

        asked = f"'{brief(name)}' version {brief(version)}" if version else f"'{brief(name)}'"
        known = [f"{each.name!r} version {each.version}" for each in self._served.values()]
        raise ServeError(
            Status.NOT_FOUND,
            f"Request for unknown model: {asked} is not found. The models here are "
            f"{', '.join(known) or 'none yet'}.",
        )

    @property
    def live_streams(self) -> int:
        """How many streams this process has in memory."""
        return sum(map(len, self._sequences.values()))

    async def start(self) -> None:
        """Opens the store and loads the models.

        Raises:
            StateportError: as `stateport.load`, or the store cannot be used.
        """
        await self._store.open()
        try:
            for name, source in self._sources.items():
                await self._add(name, source)
        except BaseException:
            await self.stop(grace=0)
            raise

        pause = min(max(self._limits.idle / 10, 0.05), 5.0)
        self._tasks.append(asyncio.create_task(_repeat(self.expire, pause)))
        if self._durability.behind is not None and self._store.is_durable:
            pause = self._durability.behind / 2
            self._tasks.append(asyncio.create_task(_repeat(self.flush, pause)))
        self._is_started = True

    async def stop(self, grace: float = 10.0) -> None:
        """Takes no new streams, lets what runs end, saves what is not saved, and ends.

        With a store that keeps streams, the requests that run are finished. Without one, the
        streams that run may go on until they end.

        Args:
            grace: seconds for that; what still runs then is cut off.
        """
        self._is_stopping = True
        deadline = self._clock() + grace
        while self._has_work() and self._clock() < deadline:
            await asyncio.sleep(0.005)

        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for sequences in self._sequences.values():
            await sequences.stop()
        self._stateless.stop()
        await self._store.close()
        self._is_started = False

    def is_live(self) -> bool:
        """Whether the server runs."""
        return self._is_started

    async def is_ready(self) -> bool:
        """Whether every model takes new streams, and the store answers."""
        if not self._is_started or self._is_stopping:
            return False
        try:
            await self._store.check()
        except StoreError as error:
            _LOG.warning("not ready: %s", error)
            return False
        return not any(sequences.is_behind for sequences in self._sequences.values())

    async def is_model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model takes new streams.

        Raises:
            ServeError: NOT_FOUND, there is no such model.
        """
        self.find(name, version)
        return await self.is_ready()

    async def infer(self, request: Request) -> Response:
        """Answers a request.

        Raises:
            ServeError: the request is refused, or failed. Any other error is a bug of stateport.
        """
        served = self.find(request.model, request.version)
        began = perf_counter()
        try:
            response = await self._infer(served, request)
        except Exception as error:
            refusal = _stopping() if self._was_cut_off(error) else _refusal(error)
            status = Status.INTERNAL if refusal is None else refusal.status
            self._count_failure(served, status, perf_counter() - began)
            if refusal is None or refusal is error:
                raise
            raise refusal from error

        seconds = perf_counter() - began
        statistics = served.statistics
        statistics.requests += 1
        statistics.request_ns += int(seconds * 1e9)
        statistics.last_ms = int(time.time() * 1000)
        self._observer.request(served.name, "ok", seconds)
        return response

    async def replace(self, name: str, path: str | PathLike[str]) -> None:
        """Replaces a model while the server runs. Its contract must be the same.

        New streams start on the new model. Live streams go on with the old one until they end or
        expire, because their states belong to it. Calls without a stream use the new one.

        Raises:
            ServeError: NOT_FOUND, there is no such model; INVALID, the contract is another one.
            StateportError: as `stateport.load`.
        """
        served = self.find(name)
        new = await asyncio.to_thread(self._load, name, path)
        if new.contract != served.contract:
            raise ServeError(
                Status.INVALID,
                f"{path} has another contract than the model {name!r} that runs; the same inputs, "
                "outputs and states were expected. Serve it under another name.",
            )
        new.statistics = served.statistics
        self._sequences[name].replace(new)
        self._served[name] = new

    async def expire(self) -> None:
        """Ends the streams that were idle for too long. The server does it by itself, too."""
        for sequences in self._sequences.values():
            await sequences.expire()

    async def flush(self) -> None:
        """Saves what the store has not yet (durability "behind"). The server does it by itself."""
        for sequences in self._sequences.values():
            await sequences.flush()

    def _has_work(self) -> bool:
        """Whether requests are under way, or streams run that no store keeps."""
        if any(self._pending.values()):
            return True
        return not self._store.is_durable and self.live_streams > 0

    async def _add(self, name: str, source: ModelSource) -> None:
        """Loads a model, and makes room for its streams."""
        served = await asyncio.to_thread(self._load, name, source)
        idle, observer = self._limits.idle, self._observer
        keeper = Keeper(name, self._store, self._durability, idle, observer)
        self._sequences[name] = Sequences(served, self._limits, keeper, observer, self._clock)
        self._served[name] = served
        self._pending[name] = 0

    def _load(self, name: str, source: ModelSource) -> Served:
        if isinstance(source, Model):
            if self._store.is_durable:
                raise InputError(
                    f"The model {name!r} is given without its file, which names the states in the "
                    "store. Give the path of the file."
                )
            return Served(name, source)
        model = load(source, engine=self._engine, plan=self._plan)
        # Only a store names models; a large file takes seconds to read.
        digest = digest_of(source, model.contract) if self._store.is_durable else ""
        return Served(name, model, digest=digest)

    async def _infer(self, served: Served, request: Request) -> Response:
        self._check_room(served.name)
        names = _output_names(served, request)
        self._pending[served.name] += 1
        try:
            if request.sequence is None or request.sequence in (0, ""):
                outputs: Mapping[str, Array] = await self._stateless.infer(served, request)
            else:
                if self._is_stopping and request.start:
                    raise _stopping()
                outputs = await self._sequences[served.name].infer(request)
        finally:
            self._pending[served.name] -= 1

        if names:
            outputs = {name: outputs[name] for name in names}
        step = request.step
        parameters = {} if step is None else {"sequence_step": step}
        return Response(served.name, served.version, request.id, outputs, parameters)

    def _check_room(self, name: str) -> None:
        if not self._is_started:
            raise _stopping()
        if self._pending[name] >= self._queue_limit:
            raise ServeError(
                Status.EXHAUSTED,
                f"{self._queue_limit} requests to the model '{name}' are under way, which is the "
                "limit. Send this one again later.",
                retry_after=0.1,
            )

    def _was_cut_off(self, error: Exception) -> bool:
        """Whether a request failed because the server stopped before its end."""
        is_own = isinstance(error, StateportError) and not isinstance(error, InputError)
        return self._is_stopping and is_own and not isinstance(error, ServeError)

    def _count_failure(self, served: Served, status: Status, seconds: float) -> None:
        served.statistics.failures += 1
        served.statistics.failure_ns += int(seconds * 1e9)
        self._observer.request(served.name, status.name.lower(), seconds)


async def _repeat(call: Callable[[], Awaitable[None]], pause: float) -> None:
    """Calls again and again, with pauses of some seconds."""
    while True:
        await asyncio.sleep(pause)
        try:
            await call()
        except Exception:  # the next time may succeed
            _LOG.exception("a task in the background failed")


def _output_names(served: Served, request: Request) -> tuple[str, ...]:
    """The outputs that are asked for, of those that there are."""
    names = names_of(served.contract.outputs)
    if not request.sequence:
        names += names_of(served.contract.state_outputs)
    for name in without(request.outputs, names):
        raise ServeError(
            Status.INVALID,
            f"unexpected inference output '{brief(name)}' for model '{served.name}'; it has "
            f"{', '.join(map(repr, names))}.",
        )
    return request.outputs


def _refusal(error: Exception) -> ServeError | None:
    """An error of stateport as the refusal of a request; None for any other error."""
    if isinstance(error, ServeError):
        return error
    if isinstance(error, InputError | StreamingError):
        return ServeError(Status.INVALID, str(error))
    return ServeError(Status.INTERNAL, str(error)) if isinstance(error, StateportError) else None


def _stopping() -> ServeError:
    return ServeError(
        Status.UNAVAILABLE,
        "The server is stopping, and takes no new streams. Send the request to another server, or "
        "again later.",
        retry_after=1.0,
    )
