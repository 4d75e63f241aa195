# SPDX-License-Identifier: Apache-2.0
"""Whether the machine was too busy for measurements that mean something."""

from __future__ import annotations

import os
from collections.abc import Iterable
from statistics import median
from typing import Final

from .timing import Times

#: The share of its median by which a usual candidate's quartiles may lie apart.
_STEADY: Final = 0.25


def load_average() -> float | None:
    """How many processes want a core, on average over the last minute; None on Windows."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def busy(load: float | None, cores: int) -> str | None:
    """A line on other programs that ran when the measurements began; None where all is well.

    Args:
        load: the load average at that time; None where the system does not report it.
        cores: how many cores the machine has.
    """
    if load is None or load <= cores - 0.5:
        return None
    return (
        f"The machine was busy before this began (load {load:.1f} on {cores} cores): measure again "
        "when it is idle."
    )


def unsteady(candidates: Iterable[Times]) -> str | None:
    """A line on times that vary from round to round; None where they are steady.

    The spread of a candidate is the distance between the quartiles of its rounds, as a share of
    its median; that of the median candidate counts.
    """
    spreads = [*map(_spread, candidates)]
    if not spreads or median(spreads) <= _STEADY:
        return None
    return (
        f"The times vary by {median(spreads):.0%} from round to round: other programs may be "
        "running. Measure again when the machine is idle, or with more --rounds."
    )


def _spread(times: Times) -> float:
    low, high = times.quartiles
    return (high - low) / times.median if times.median else 0.0
