# SPDX-License-Identifier: Apache-2.0
"""The choice among plans that were measured: the fastest, or a simpler one that is as fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ..bench.timing import Times, ratio
from ..engines import facts
from ..plan import Plan
from .variants import Variant

#: The verdict on the plan that is chosen, and those on others whose answers are right.
CHOSEN: Final = "pass"
AS_FAST: Final = "as fast"
SLOWER: Final = "slower"

#: The engine that is used where nobody names one.
_DEFAULT_ENGINE: Final = "ort-cpu"
#: How much more than the fastest plan one may cost in the median round to count as as fast.
_NOISE: Final = 1.1


@dataclass(frozen=True)
class Trial:
    """One plan that was tried.

    Attributes:
        variant: the variant that ran.
        plan: how it ran.
        times: the measured times; None where it could not run.
        verdict: "pass" for the plan that is chosen; "as fast" or "slower" for another one whose
            answers are right; for the rest, in words why it could not run or fails.
        decibels: the signal-to-noise ratio of its answers, in the worst window of all outputs;
            None where it could not run.
    """

    variant: Variant
    plan: Plan
    times: Times | None = None
    verdict: str = ""
    decibels: float | None = None

    @property
    def passed(self) -> bool:
        """Whether it was verified and its answers are right."""
        return self.verdict in (CHOSEN, AS_FAST, SLOWER)

    def cost(self, goal: str) -> float:
        """The number of seconds that the search minimizes; infinite where it could not run."""
        if self.times is None:
            return float("inf")
        return self.times.median * self.weight(goal)

    def weight(self, goal: str) -> float:
        """What a second of its calls counts: for throughput, the time of all cores per step."""
        return 1.0 if goal == "latency" else self.plan.threads / self.plan.chunk


def choose(trials: Sequence[Trial], goal: str) -> Trial:
    """The simplest of the trials that pass and are as fast as the fastest of them.

    Simple is, in this order: fewer threads; float32; the default engine, without options; the
    file as it was exported. Among equally simple ones the faster is chosen.

    Args:
        trials: trials, at least one of which passed.
        goal: "latency" or "throughput".
    """
    passed = [trial for trial in trials if trial.passed]
    fastest = min(passed, key=lambda trial: trial.cost(goal))

    near = []
    for trial in passed:
        if is_as_fast(trial, fastest, goal):
            near.append(trial)

    return min(near, key=lambda trial: (*_complexity(trial), trial.cost(goal)))


def with_verdicts(trials: Sequence[Trial], chosen: Trial, goal: str) -> list[Trial]:
    """The trials, of which one was chosen, with what became of those that pass."""
    fastest = min((t for t in trials if t.passed), key=lambda trial: trial.cost(goal))
    verdicts = []
    for trial in trials:
        if trial is chosen:
            trial = replace(trial, verdict=CHOSEN)
        elif trial.passed:
            near = is_as_fast(trial, fastest, goal)
            trial = replace(trial, verdict=AS_FAST if near else SLOWER)
        verdicts.append(trial)
    return verdicts


def is_as_fast(trial: Trial, fastest: Trial, goal: str) -> bool:
    """Whether a trial is as fast as another one, within the noise of the measurements.

    The two took turns. The trial is as fast if it costs no more in a quarter of the rounds, and at
    most a tenth more in the median of the rounds, and by its median.
    """
    if trial is fastest:
        return True
    if trial.times is None or fastest.times is None:
        return False

    factor = trial.weight(goal) / fastest.weight(goal)
    relative = ratio(trial.times, fastest.times)
    medians = (relative.median * factor, trial.cost(goal) / fastest.cost(goal))
    return relative.low * factor <= 1.0 and max(medians) <= _NOISE


def _complexity(trial: Trial) -> tuple[int, bool, bool, bool, bool]:
    """What makes a plan less simple, the most important first."""
    plan, variant = trial.plan, trial.variant
    has_own_files = variant.whole is not None or variant.step is not None
    return (
        plan.threads,
        {variant.precision, asked_precision(plan)} != {"float32"},
        plan.engine != _DEFAULT_ENGINE,
        bool(plan.options),
        has_own_files,
    )


def asked_precision(plan: Plan) -> str:
    """The precision that the options of a plan ask the engine for."""
    for precision, options in facts(plan.engine).precisions.items():
        if options == plan.options:
            return precision
    return "float32"
