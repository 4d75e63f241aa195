# SPDX-License-Identifier: Apache-2.0
"""Traces by OpenTelemetry, where it is installed; otherwise nothing happens.

The library's own settings say where spans go: run the server under `opentelemetry-instrument`, or
set up a tracer provider in the service that mounts the application.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from .request import Request

try:
    from opentelemetry import propagate, trace
except ImportError:
    trace = None  # type: ignore[assignment,unused-ignore]

_NOTHING: Final = contextlib.nullcontext()


def is_on() -> bool:
    """Whether OpenTelemetry is installed and something listens to its spans."""
    if trace is None:
        return False
    # Until a provider is set up, the library has one that makes no spans.
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


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
