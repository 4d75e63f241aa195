# SPDX-License-Identifier: Apache-2.0
"""Metrics for Prometheus: the service's events, counted and given out on `/metrics`.

The counters are plain lists and dicts, because the locked ones of prometheus-client take as long as
all else that a request needs in this process. The library writes the page.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

#: Upper ends in seconds: from a tenth of a millisecond to ten seconds.
_SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0
)  # fmt: skip
_BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class Histogram:
    """How often values fell into each of some ranges, and their sum."""

    __slots__ = ("_ends", "counts", "total")

    def __init__(self, ends: Sequence[float]) -> None:
        self._ends = ends
        self.counts = [0] * (len(ends) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self._ends, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """The upper end of each range, and how many values were at most that."""
        buckets = []
        count = 0
        for end, more in zip((*map(str, self._ends), "+Inf"), self.counts, strict=True):
            count += more
            buckets.append((end, float(count)))
        return buckets


class Metrics(Collector):
    """An observer of a service that gives out what it counted."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str], int] = defaultdict(int)
        self._evictions: dict[tuple[str, str], int] = defaultdict(int)
        self._records: dict[tuple[str, str], int] = defaultdict(int)
        self._streams: dict[tuple[str], int] = {}

        self._latency: dict[tuple[str], Histogram] = defaultdict(_of_seconds)
        self._waits: dict[tuple[str], Histogram] = defaultdict(_of_seconds)
        self._engine: dict[tuple[str], Histogram] = defaultdict(_of_seconds)
        self._batch: dict[tuple[str], Histogram] = defaultdict(_of_batches)
        self._store: dict[tuple[str, str], Histogram] = defaultdict(_of_seconds)

        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def request(self, model: str, outcome: str, seconds: float) -> None:
        """A request ended."""
        self._requests[model, outcome] += 1
        self._latency[model,].add(seconds)

    def step(self, model: str, waited: float, ran: float, batch: int) -> None:
        """A step ran."""
        self._waits[model,].add(waited)
        self._engine[model,].add(ran)
        self._batch[model,].add(batch)

    def streams(self, model: str, live: int) -> None:
        """The number of live streams changed."""
        self._streams[model,] = live

    def evicted(self, model: str, reason: str) -> None:
        """A stream left the process."""
        self._evictions[model, reason] += 1

    def stored(self, model: str, operation: str, seconds: float, records: int) -> None:
        """The store did an operation."""
        self._store[model, operation].add(seconds)
        self._records[model, operation] += records

    def page(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """All metrics, for prometheus-client."""
        yield _counter(
            "requests", "Requests that were answered.", ("model", "outcome"), self._requests
        )
        yield _histogram("request_seconds", "Time of a request.", ("model",), self._latency)
        yield _histogram(
            "queue_seconds", "Time that a step waited for the engine.", ("model",), self._waits
        )
        yield _histogram(
            "engine_seconds", "Time of the engine's call with the step.", ("model",), self._engine
        )
        yield _histogram(
            "batch_size", "How many streams stepped in the call with the step.", ("model",),
            self._batch,
        )  # fmt: skip

        live = GaugeMetricFamily(
            "stateport_live_streams", "Streams in this process.", labels=("model",)
        )
        for labels, value in self._streams.items():
            live.add_metric(labels, value)
        yield live

        yield _counter(
            "evictions", "Streams that left the process.", ("model", "reason"), self._evictions
        )
        yield _histogram(
            "store_seconds", "Time of a store's operation.", ("model", "operation"), self._store
        )
        yield _counter(
            "store_records", "Records of a store's operations.", ("model", "operation"),
            self._records,
        )  # fmt: skip


def _of_seconds() -> Histogram:
    return Histogram(_SECONDS)


def _of_batches() -> Histogram:
    return Histogram(_BATCHES)


def _counter(
    name: str, text: str, labels: Sequence[str], values: dict[tuple[str, str], int]
) -> Metric:
    family = CounterMetricFamily(f"stateport_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(
    name: str,
    text: str,
    labels: Sequence[str],
    values: dict[tuple[str], Histogram] | dict[tuple[str, str], Histogram],
) -> Metric:
    family = HistogramMetricFamily(f"stateport_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value.buckets(), value.total)
    return family
