"""Clocks that forward reads, set forward."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from torch import nn

from ..authors import authored, named
from ..sizes.foreseen import GRID, Watch, foresee

_SECONDS: Final = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
#: Python's clocks, and how much of their unit a second is.
_CLOCKS: Final[dict[Any, float]] = {
    **{getattr(time, name): 1.0 for name in _SECONDS},
    **{getattr(time, f"{name}_ns"): 1e9 for name in _SECONDS},
}


def read_clocks(network: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Where a network's code names a clock: holders and names."""
    places = {
        (id(holder), key): (holder, key)
        for function in authored(network).functions
        for holder, key in named(function)
    }
    return [(holder, key) for holder, key in places.values() if _is_clock(holder[key])]


@contextlib.contextmanager
def clocks_ahead(
    places: list[tuple[dict[str, Any], str]], seconds: float, watch: Watch | None = None
) -> Iterator[None]:
    """Lets these clocks be ahead; with a watch, they give numbers that are foreseen."""
    originals = [holder[key] for holder, key in places]
    try:
        for (holder, key), original in zip(places, originals, strict=True):
            holder[key] = _ahead(original, seconds, watch)
        yield
    finally:
        for (holder, key), original in zip(places, originals, strict=True):
            holder[key] = original


def _is_clock(value: Any) -> bool:
    return any(value is clock for clock in _CLOCKS)


def _ahead(clock: Callable[[], Any], seconds: float, watch: Watch | None) -> Callable[[], Any]:
    second = _CLOCKS[clock]

    def read() -> Any:
        now = clock()
        now += type(now)(seconds * second)
        return now if watch is None else foresee(now, now + (GRID - 1) * second, watch)

    return read
