# SPDX-License-Identifier: Apache-2.0
"""One call of the service, whatever transport it came by: traced, logged, refused in words."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Protocol

from . import tracing
from .errors import ServeError, Status, brief
from .logs import LOG, log
from .request import Request, Response


class Infers(Protocol):
    """What is called here; `Service` has it."""

    async def infer(self, request: Request) -> Response:
        """Answers one request."""


async def call(
    service: Infers, transport: str, request: Request, headers: Iterable[tuple[Any, Any]] = ()
) -> Response:
    """Calls the service.

    Args:
        service: the service.
        transport: "rest", "grpc" or "websocket".
        request: the request.
        headers: the request's headers, which may name a trace.

    Raises:
        ServeError: the request is refused, or failed.
    """
    try:
        if tracing.is_on():
            with tracing.span(transport, request, headers):
                response = await service.infer(request)
        else:
            response = await service.infer(request)
    except ServeError as error:
        log_refusal(transport, error, request)
        raise
    except Exception as error:
        raise unexpected(transport, error, request) from error

    if LOG.isEnabledFor(logging.DEBUG) or request.start or request.end:
        _log_answer(transport, request)
    return response


def log_refusal(transport: str, error: ServeError, request: Request | None = None) -> None:
    """Logs that a request was refused."""
    level = logging.ERROR if error.status is Status.INTERNAL else logging.INFO
    log(level, "refused", transport=transport, status=error.status.name, why=str(error),
        **_fields(request))  # fmt: skip


def unexpected(transport: str, error: Exception, request: Request | None = None) -> ServeError:
    """Logs an error that is not a refusal. Returns what the client gets to know of it."""
    fields = {"transport": transport, **_fields(request)}
    LOG.error("failed", exc_info=error, extra={"fields": fields})
    return ServeError(
        Status.INTERNAL,
        f"The request failed inside of the server ({type(error).__name__}). Its log has the "
        "details; report them, for this is a bug in stateport.",
    )


def _log_answer(transport: str, request: Request) -> None:
    if request.start:
        log(logging.INFO, "stream started", transport=transport, **_fields(request))
    log(logging.DEBUG, "answered", transport=transport, **_fields(request))
    if request.end:
        log(logging.INFO, "stream ended", transport=transport, **_fields(request))


def _fields(request: Request | None) -> dict[str, object]:
    if request is None:
        return {}
    sequence = request.sequence
    return {
        "model": brief(request.model),
        "sequence": brief(sequence) if isinstance(sequence, str) else sequence,
        "step": request.step,
        "client": request.client,
        "id": brief(request.id),
    }
