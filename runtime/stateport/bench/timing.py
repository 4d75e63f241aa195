"""Timing contenders against one another, in one process and in turn.

Machines are noisy, so that only ratios mean something: each is taken within a round, in which every
contender has its turn, and the median of the rounds is given with its quartiles.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Final, TypeVar

import numpy as np

Call = Callable[[], object]
_Name = TypeVar("_Name", bound=Hashable)

ROUNDS: Final = 30
SECONDS: Final = 0.03  # of each contender in each round
#: Of a contender's single calls, so many are timed one by one in each round.
SINGLES: Final = 200


@dataclass(frozen=True)
class Times:
    """What one contender took.

    Attributes:
        rounds: seconds per call, one figure for each round.
        singles: seconds of calls timed one by one, which have the clock's own time in them.
    """

    rounds: tuple[float, ...]
    singles: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds per call."""
        return float(np.median(self.rounds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Seconds per call, below which a quarter and three quarters of the rounds are."""
        low, high = np.quantile(self.rounds, [0.25, 0.75])
        return float(low), float(high)

    def latency(self, share: float) -> float:
        """Seconds within which this share of the single calls was done: 0.99 for p99."""
        return float(np.quantile(self.singles, share))


@dataclass(frozen=True)
class Ratio:
    """How many times as long one contender takes as another: the median, and the quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio(one: Times, other: Times) -> Ratio:
    """The ratio of two that took turns, taken within each round."""
    shares = np.array(one.rounds) / np.array(other.rounds)
    low, middle, high = np.quantile(shares, [0.25, 0.5, 0.75])
    return Ratio(float(middle), float(low), float(high))


def measure(
    calls: Mapping[_Name, Call],
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[_Name, Times]:
    """Times the contenders in rounds, in which each has its turn.

    Args:
        calls: the contenders.
        rounds: how many times each has its turn.
        seconds: how long a turn is, behind half as much to warm up. Of a call that takes longer,
            one is timed.
        progress: is told the share that is done after each round.
    """
    counts = {name: _calibrated(call, seconds) for name, call in calls.items()}
    taken: dict[_Name, list[float]] = {name: [] for name in calls}
    singles: dict[_Name, list[int]] = {name: [] for name in calls}
    enabled = gc.isenabled()
    gc.disable()  # a collection would be charged to whoever had the turn
    try:
        for number in range(rounds):
            for name, call in calls.items():
                # What the one before it left in caches and threads is not its fault: a large
                # network's weights take several calls to come back into the cache.
                _timed(call, counts[name] // 2 + 1)
                taken[name].append(_timed(call, counts[name]))
                singles[name] += _one_by_one(call, min(counts[name], SINGLES))
            gc.collect()
            progress((number + 1) / rounds)
    finally:
        if enabled:
            gc.enable()
    return {n: Times(tuple(taken[n]), tuple(s / 1e9 for s in singles[n])) for n in calls}


def _calibrated(call: Call, seconds: float) -> int:
    """How many calls fill a turn; also warms up."""
    _timed(call, 3)
    once = _timed(call, 1)
    return 1 if once >= seconds else max(int(seconds / _timed(call, 3)), 1)


def _timed(call: Call, count: int) -> float:
    """Seconds per call."""
    begin = perf_counter_ns()
    for _ in range(count):
        call()
    return (perf_counter_ns() - begin) / 1e9 / count


def _one_by_one(call: Call, count: int) -> list[int]:
    """Nanoseconds of each call."""
    found = []
    for _ in range(count):
        begin = perf_counter_ns()
        call()
        found.append(perf_counter_ns() - begin)
    return found
