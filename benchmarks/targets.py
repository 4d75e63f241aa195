"""The ratios of time that stateport is to keep, each within one run on one pinned core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .loads import HALF, MANY, ONE, Load
from .measure import Taken
from .networks import NETWORKS, SMALLEST, Network
from .own import BUDGET

Results = Mapping[tuple[Network, Load], Sequence[Taken]]
Choose = Callable[[Taken], bool]


@dataclass(frozen=True)
class Target:
    """One contender against the quickest of some others.

    Attributes:
        what: what is held against something.
        against: what it is held against.
        load: under which load.
        at_most: the ratio, for each network that it is for.
        one: which contender it is.
        others: the others.
    """

    what: str
    against: str
    load: Load
    at_most: Mapping[Network, float]
    one: Choose
    others: Choose


def named(*names: str) -> Choose:
    """Contenders of these names; a name may go on behind a colon."""
    return lambda taken: taken.name.partition(":")[0] in names


def pytorch(*, float32: bool) -> Choose:
    """PyTorch in float32, or at any precision."""
    return lambda t: t.maker == "PyTorch" and (not float32 or t.precision == "float32")


def peers_within_budget(taken: Taken) -> bool:
    """All but stateport whose error keeps the budget."""
    judged = taken.snr is None or taken.snr >= BUDGET
    return taken.maker != "stateport" and judged


_LARGER: Final = NETWORKS[1:]
_BOUND: Final = named("one call on bound buffers")
_OWN: Final = named("stateport")
_PLANNED: Final = named("stateport planned")
_REDUCED: Final = named("stateport planned, 25 dB")

TARGETS: Final = (
    Target(
        "`Stream` step",
        "the documented `session.run` loop",
        ONE,
        {SMALLEST: 0.70},
        _OWN,
        named("session.run with dicts"),
    ),
    Target(
        "`Stream` step",
        "bound buffers by hand",
        ONE,
        dict.fromkeys(NETWORKS[2:], 1.03),
        _OWN,
        _BOUND,
    ),
    Target(
        "`Stream` step",
        "PyTorch's best float32",
        ONE,
        {SMALLEST: 0.20, **dict.fromkeys(_LARGER, 0.30)},
        _OWN,
        pytorch(float32=True),
    ),
    Target(
        "`Stream` step, int8",
        "PyTorch's best at any precision",
        ONE,
        dict.fromkeys(NETWORKS[2:4], 0.70),
        named("stateport int8"),
        pytorch(float32=False),
    ),
    Target(
        "`Pool`, 256 of 256",
        "one engine call on preallocated buffers",
        MANY,
        {SMALLEST: 1.10, **dict.fromkeys(_LARGER, 1.05)},
        _OWN,
        _BOUND,
    ),
    Target(
        "`Pool`, 256 of 256",
        "the loop over streams",
        MANY,
        {SMALLEST: 0.03, **dict.fromkeys(_LARGER, 0.11)},
        _OWN,
        named("a loop over streams"),
    ),
    Target(
        "`Pool`, 256 of 256",
        "concatenate, run, split",
        MANY,
        {SMALLEST: 0.35, NETWORKS[1]: 0.75},
        _OWN,
        named("concatenate, run, split"),
    ),
    Target(
        "`Pool`, 256 of 256, the plan that `tune` picks",
        "one engine call of the LSTM operator",
        MANY,
        {SMALLEST: 0.50},
        _PLANNED,
        _BOUND,
    ),
    Target(
        "`Pool`, a random half of 256",
        "128 of 128",
        HALF,
        {SMALLEST: 1.60, **dict.fromkeys(_LARGER, 1.25)},
        _OWN,
        named("stateport, a pool of these alone"),
    ),
    Target(
        "`Pool`, 256 of 256, the plan that `tune` picks within 25 dB",
        "the best peer at any precision within 25 dB",
        MANY,
        dict.fromkeys(NETWORKS, 1.0),
        _REDUCED,
        peers_within_budget,
    ),
)


@dataclass(frozen=True)
class Figure:
    """A target's ratio for one network: its median and quartiles, and who the other was."""

    target: Target
    network: Network
    low: float
    median: float
    high: float
    other: str

    @property
    def holds(self) -> bool:
        """Whether the median keeps the target."""
        return self.median <= self.target.at_most[self.network]


def figures(results: Results) -> Iterator[Figure]:
    """All targets whose contenders were measured."""
    for target in TARGETS:
        for network in target.at_most:
            taken = results.get((network, target.load), ())
            ones = [t for t in taken if target.one(t)]
            others = [t for t in taken if target.others(t)]
            if ones and others:
                other = min(others, key=lambda t: t.median)
                low, median, high = ratio(ones[0], other)
                yield Figure(target, network, low, median, high, other.name)


def ratio(one: Taken, other: Taken) -> tuple[float, float, float]:
    """Quartiles of the ratios taken within each round; the median in the middle."""
    shares = np.array(one.rounds) / np.array(other.rounds)
    low, median, high = np.quantile(shares, [0.25, 0.5, 0.75])
    return float(low), float(median), float(high)
