# SPDX-License-Identifier: Apache-2.0
"""The parts of a server, put together: the service, its description, its metrics, who may call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from .application import Application
from .limits import Limits
from .metadata import Catalogue
from .metrics import Metrics
from .names import named_models
from .service import ModelSource, Service
from .tokens import Tokens


@dataclass(frozen=True)
class Parts:
    """What the transports of one server share."""

    catalogue: Catalogue
    metrics: Metrics
    tokens: Tokens
    limits: Limits
    origins: tuple[str, ...] = ()

    def application(self) -> Application:
        """The ASGI application."""
        return Application(
            self.catalogue,
            self.metrics,
            tokens=self.tokens,
            limits=self.limits,
            origins=self.origins,
        )


def app(
    models: str | PathLike[str] | Mapping[str, ModelSource],
    *,
    engine: str | None = None,
    plan: str | PathLike[str] | None = None,
    capacity: int = 1024,
    idle: float = 600.0,
    store: str = "memory",
    durability: str = "before",
    token_file: str | PathLike[str] | None = None,
    max_streams_per_client: int | None = None,
    max_queue: int = 4096,
    max_body: int = Limits.max_body,
    allow_origins: Iterable[str] = (),
) -> Application:
    """An ASGI application that serves models over REST and WebSockets.

    It can be served by any ASGI server, and mounted in another application. What `stateport serve`
    adds is gRPC, TLS, and the limits of time of connections.

    Args:
        models: a file, which is served under its stem; or a file or a loaded model for each name.
        engine: the engine of the files; by default "ort-cpu".
        plan: a file that `stateport tune` wrote, if there is one model.
        capacity: how many streams each model has in memory at most.
        idle: seconds after which a stream that is not used expires.
        store: where streams are kept: "memory", "file:DIR" or "redis://...".
        durability: "before", or "behind" with a number of milliseconds: "behind:100".
        token_file: a file with one bearer token, or one name and token, on each line.
        max_streams_per_client: how many live streams one client may have; None for any.
        max_queue: how many requests of one model may be under way at once.
        max_body: the largest body in bytes, unpacked.
        allow_origins: the pages of other sites that may open a WebSocket: "https://example.org".

    Raises:
        InputError: a value is none of these.
        FileError: the file of tokens cannot be read, or has no tokens.
    """
    parts = assemble(
        named_models([models]) if isinstance(models, str | PathLike) else models,
        engine=engine,
        plan=plan,
        capacity=capacity,
        idle=idle,
        store=store,
        durability=durability,
        token_file=token_file,
        max_streams_per_client=max_streams_per_client,
        max_queue=max_queue,
        limits=Limits(max_body=max_body),
        origins=tuple(allow_origins),
    )
    return parts.application()


def assemble(
    models: Mapping[str, ModelSource],
    *,
    engine: str | None,
    plan: str | PathLike[str] | None,
    capacity: int,
    idle: float,
    store: str,
    durability: str,
    token_file: str | PathLike[str] | None,
    max_streams_per_client: int | None,
    max_queue: int,
    limits: Limits,
    origins: tuple[str, ...],
) -> Parts:
    """Makes the parts of a server; see `app`."""
    metrics = Metrics()
    service = Service(
        models,
        engine=engine,
        plan=plan,
        capacity=capacity,
        idle=idle,
        store=store,
        durability=durability,
        most_streams_per_client=max_streams_per_client,
        queue_limit=max_queue,
        observer=metrics,
    )
    tokens = Tokens.none() if token_file is None else Tokens.load(Path(token_file))
    return Parts(Catalogue(service, capacity, idle), metrics, tokens, limits, origins)
