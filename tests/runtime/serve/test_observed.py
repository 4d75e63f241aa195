# SPDX-License-Identifier: Apache-2.0
"""Logs, metrics and traces of a server."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from stateport import EngineError
from stateport.serve import Application, Request, tracing
from stateport.serve.logs import LOG, log, log_to
from stateport.serve.metrics import Histogram, Metrics
from stateport.serve.sequences import Sequences
from tests.runtime.serve.asking import chunk, document, in_process, place


@pytest.fixture
def own_logging() -> Iterator[io.StringIO]:
    """The log as a text, and the loggers as they were before."""
    loggers = (LOG, logging.getLogger("uvicorn.error"))
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    stream = io.StringIO()
    log_to(stream, "info")
    yield stream
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_a_record_is_one_line_of_json(own_logging: io.StringIO) -> None:
    log(logging.INFO, "a\nb ::error::", sequence=7, client="", model=None)
    log(logging.DEBUG, "not asked for")
    try:
        raise ValueError("why")
    except ValueError as error:
        LOG.error("failed", exc_info=error)

    first, second = map(json.loads, own_logging.getvalue().splitlines())
    assert first["level"] == "info"
    assert "\n" not in first["message"]
    assert "::error" not in first["message"]
    assert first["sequence"] == 7
    assert not {"client", "model"} & first.keys()
    assert second["error"] == "ValueError: why"
    assert "Traceback" in second["traceback"]


@pytest.mark.parametrize(
    ("error", "message"), [(KeyError("why"), "failed"), (EngineError("why"), "refused")]
)
def test_a_failure_is_logged_once(
    reference: Path,
    own_logging: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
) -> None:
    async def fail(*arguments: object) -> None:
        raise error

    async def conversation(client: httpx.AsyncClient, application: Application) -> None:
        monkeypatch.setattr(Sequences, "infer", fail)
        body = document(chunk(), **place("s", start=True))
        answer = await client.post("/v2/models/lstm/infer", json=body)
        assert answer.status_code == 500
        assert ("why" in answer.text) == isinstance(error, EngineError)
        page = await client.get("/metrics")
        assert 'stateport_requests_total{model="lstm",outcome="internal"} 1.0' in page.text
        assert application.service.models["lstm"].statistics.failures == 1

    in_process(reference, conversation)
    [entry] = map(json.loads, own_logging.getvalue().splitlines())
    assert (entry["level"], entry["message"], entry["sequence"]) == ("error", message, "s")


def test_the_page_of_metrics_is_read_by_prometheus() -> None:
    metrics = Metrics()
    metrics.request("m", "ok", 0.003)
    metrics.step("m", 0.0002, 0.02, 3)
    metrics.streams("m", 5)
    metrics.evicted("m", "idle")
    metrics.stored("m", "save", 20.0, 4)

    samples = {}
    for family in text_string_to_metric_families(metrics.page().decode()):
        for sample in family.samples:
            samples[sample.name, *sample.labels.values()] = sample.value
    assert samples["stateport_requests_total", "m", "ok"] == 1
    assert samples["stateport_live_streams", "m"] == 5
    assert samples["stateport_evictions_total", "m", "idle"] == 1
    assert samples["stateport_store_records_total", "m", "save"] == 4
    assert samples["stateport_batch_size_sum", "m"] == 3


def test_a_histogram_counts_up_to_and_including_each_end() -> None:
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 3):
        histogram.add(value)
    assert histogram.buckets() == [("1", 2.0), ("2", 3.0), ("+Inf", 4.0)]
    assert histogram.total == 6


def test_nothing_is_traced_where_nothing_listens() -> None:
    with tracing.span("rest", Request("m", {}), []):
        pass


def test_that_nothing_listens_is_asked_once_in_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_provider() -> trace.ProxyTracerProvider:
        asked.append(1)
        return trace.ProxyTracerProvider()

    monkeypatch.setattr(trace, "get_tracer_provider", no_provider)
    now = 100.0
    monkeypatch.setattr(tracing, "monotonic", lambda: now)
    monkeypatch.setattr(tracing, "_LISTENING", tracing._Listening())
    for _ in range(5):
        assert not tracing.is_on()
    assert len(asked) == 1

    now = 101.0
    monkeypatch.setattr(trace, "get_tracer_provider", TracerProvider)
    assert tracing.is_on()
    assert tracing.is_on()


def test_a_request_has_a_span_below_the_clients(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(tracing, "_LISTENING", tracing._Listening())

    async def conversation(client: httpx.AsyncClient, application: Application) -> None:
        body = document(chunk(), **place("s", start=True))
        parent = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
        await client.post("/v2/models/lstm/infer", json=body, headers=parent)
        await client.post("/v2/models/lstm/infer", json=document(chunk(), **place("no")))

    in_process(reference, conversation)
    first, second = spans.get_finished_spans()
    assert first.name == "infer lstm"
    assert f"{first.context.trace_id:x}" == "ab" * 16
    assert first.attributes is not None
    assert first.attributes["stateport.sequence_id"] == "s"
    assert second.status.status_code is trace.StatusCode.ERROR
    provider.shutdown()
