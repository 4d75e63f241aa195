# SPDX-License-Identifier: Apache-2.0
"""Traces by OpenTelemetry, where it is installed; otherwise nothing happens.

The library's own settings say where spans go: run the server under `opentelemetry-instrument`, or
set up a tracer provider in the service that mounts the application.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from time import monotonic
from typing import Any, Final

from .request import Request

try:
    from opentelemetry import propagate, trace
except ImportError:
    trace = None  # type: ignore[assignment,unused-ignore]

_NOTHING: Final = contextlib.nullcontext()


class _Listening:
    """Whether something listens to spans; asked again after a second if nothing does.

    The library looks into the environment at each question until there is a provider, which takes
    longer than much of a request.
    """

    def __init__(self) -> None:
        self._asked = -math.inf

    def __bool__(self) -> bool:
        now = monotonic()
        if trace is None or now - self._asked < 1.0:
            return False
        # Until a provider is set up, the library has one that makes no spans.
        is_on = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        self._asked = -math.inf if is_on else now
        return is_on


_LISTENING: Final = _Listening()


def is_on() -> bool:
    """Whether OpenTelemetry is installed and something listens to its spans, or did not lately."""
    return bool(_LISTENING)


def span(
    transport: str, request: Request, headers: Iterable[tuple[Any, Any]]
) -> contextlib.AbstractContextManager[object]:
    """A span for one request, below the span that the headers `traceparent` and so on name."""
    if not is_on():
        return _NOTHING
    return _span(transport, request, headers)


@contextlib.contextmanager
def _span(transport: str, request: Request, headers: Iterable[tuple[Any, Any]]) -> Iterator[object]:
    attributes: dict[str, str | bool] = {
        "rpc.system": transport,
        "stateport.model": request.model,
        "stateport.sequence_id": str(request.sequence or ""),
        "stateport.sequence_start": request.start,
        "stateport.sequence_end": request.end,
    }
    parent = propagate.extract(_texts(headers))
    tracer = trace.get_tracer("stateport.serve")
    with tracer.start_as_current_span(
        f"infer {request.model}", parent, trace.SpanKind.SERVER, attributes
    ) as current:
        yield current


def _texts(headers: Iterable[tuple[Any, Any]]) -> Mapping[str, str]:
    """The headers that carry a trace, as texts."""
    texts = {}
    for name, value in headers:
        key = name.decode("latin-1") if isinstance(name, bytes) else name
        if key in ("traceparent", "tracestate", "baggage"):
            texts[key] = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return texts
