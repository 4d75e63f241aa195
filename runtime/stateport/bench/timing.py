# SPDX-License-Identifier: Apache-2.0
"""Timing several candidates side by side, in one process.

Machines are noisy, so that only ratios are comparable. Therefore the candidates take turns: in each
round, every one is timed once. A ratio is taken within each round, and its median over the rounds
is given with its quartiles.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Final, TypeVar

import numpy as np

Call = Callable[[], object]
_Name = TypeVar("_Name", bound=Hashable)

ROUNDS: Final = 30
#: How long each candidate is timed in each round.
SECONDS: Final = 0.03
#: How many calls of each candidate are timed one by one in each round, at most.
SINGLES: Final = 200


@dataclass(frozen=True)
class Times:
    """The times of one candidate.

    Attributes:
        rounds: seconds per call, one figure for each round.
        singles: seconds of calls that were timed one by one. They include the time that reading
            the clock takes.
    """

    rounds: tuple[float, ...]
    singles: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds per call in the median round."""
        return float(np.median(self.rounds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and third quartile of the rounds' seconds per call."""
        low, high = np.quantile(self.rounds, [0.25, 0.75])
        return float(low), float(high)

    def latency(self, share: float) -> float:
        """The quantile of the single calls' seconds: 0.99 for p99."""
        return float(np.quantile(self.singles, share))


@dataclass(frozen=True)
class Ratio:
    """The time of one candidate divided by that of another: the median, and the quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio(times: Times, reference: Times) -> Ratio:
    """The ratio of `times` to `reference`. Both took turns; the ratio is taken in each round."""
    ratios = np.array(times.rounds) / np.array(reference.rounds)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return Ratio(float(middle), float(low), float(high))


def measure(
    calls: Mapping[_Name, Call],
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[_Name, Times]:
    """Times candidates in rounds; in each round every candidate is timed once.

    Args:
        calls: the candidates by name.
        rounds: how many rounds there are.
        seconds: how long a candidate is timed in each round, after half as long to warm up. A call
            that takes longer is timed once.
        progress: is called after each round with the share of rounds that are done.
    """
    counts = {name: _calls_per_round(call, seconds) for name, call in calls.items()}
    averages: dict[_Name, list[float]] = {name: [] for name in calls}
    singles: dict[_Name, list[int]] = {name: [] for name in calls}

    with _no_collections():
        for number in range(rounds):
            for name, call in calls.items():
                # The call before this one has filled caches and threads: the weights of a large
                # network take several calls to come back into the cache.
                _seconds_per_call(call, counts[name] // 2 + 1)
                averages[name].append(_seconds_per_call(call, counts[name]))
                singles[name] += _nanoseconds_of_calls(call, min(counts[name], SINGLES))
            gc.collect()
            progress((number + 1) / rounds)

    return {name: _as_times(averages[name], singles[name]) for name in calls}


@contextmanager
def _no_collections() -> Iterator[None]:
    """Switches garbage collection off, which would slow down an arbitrary candidate."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _as_times(averages: list[float], singles: list[int]) -> Times:
    return Times(tuple(averages), tuple(nanoseconds / 1e9 for nanoseconds in singles))


def _calls_per_round(call: Call, seconds: float) -> int:
    """How many calls take this long, at least one. Calling also warms up."""
    _seconds_per_call(call, 3)
    if _seconds_per_call(call, 1) >= seconds:
        return 1
    return max(int(seconds / _seconds_per_call(call, 3)), 1)


def _seconds_per_call(call: Call, count: int) -> float:
    """The average over `count` calls."""
    begin = perf_counter_ns()
    for _ in range(count):
        call()
    return (perf_counter_ns() - begin) / 1e9 / count


def _nanoseconds_of_calls(call: Call, count: int) -> list[int]:
    """The time of each of `count` calls."""
    times = []

    for _ in range(count):
        begin = perf_counter_ns()
        call()
        times.append(perf_counter_ns() - begin)
    return times
