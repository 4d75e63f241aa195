# SPDX-License-Identifier: Apache-2.0
"""Measurements during which other processes leave the cores alone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

#: The part of a core that other processes may take.
MOST: Final = 0.15
#: Seconds after which nobody waits for a quiet machine any longer.
PATIENCE: Final = float(os.environ.get("STATEPORT_QUIET_SECONDS", "900"))


class Taken(Protocol):
    """A measurement that says how much other processes took."""

    @property
    def others(self) -> float:
        """The cores that other processes took."""


T = TypeVar("T", bound=Taken)


def busy() -> float:
    """Seconds that the cores that this process may use have worked (man 5 proc)."""
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines():
        name, *fields = line.split()
        if name in ours:
            user, nice, system, _idle, _wait, *interrupts = map(int, fields[:8])
            ticks += user + nice + system + sum(interrupts)
    return ticks / os.sysconf("SC_CLK_TCK")


def quiet(measure: Callable[[], T]) -> T:
    """Measures while other processes do nothing, again and again if need be.

    Raises:
        RuntimeError: the machine is never quiet.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        if not _is_pinned():
            _wait(deadline)
        taken = measure()
        if taken.others <= MOST:
            return taken
        if time.monotonic() > deadline:
            raise _never()
        print(f"others took {taken.others:.2f} cores: again", file=sys.stderr)


def _wait(deadline: float) -> None:
    """Waits until the cores are idle."""
    while True:
        begin, before = time.perf_counter(), busy()
        time.sleep(1)
        if (busy() - before) / (time.perf_counter() - begin) <= MOST:
            return
        if time.monotonic() > deadline:
            raise _never()


def _is_pinned() -> bool:
    """Whether this process may use some of the cores alone: others then go to the rest of them."""
    return len(os.sched_getaffinity(0)) < (os.cpu_count() or 1)


def _never() -> RuntimeError:
    return RuntimeError(
        f"Other processes took more than {MOST} cores for {PATIENCE:.0f} seconds. Measure on a "
        "quiet machine, set STATEPORT_QUIET_SECONDS, or leave them a core: taskset -c 0 python ..."
    )
