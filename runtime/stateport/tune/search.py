# SPDX-License-Identifier: Apache-2.0
"""The search for a plan: lists what is possible, measures and verifies it, and chooses."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from ..bench.noise import load_average
from ..bench.timing import ROUNDS, SECONDS, measure
from ..bench.workload import Workload, step_call
from ..engines import EngineFacts, engine_names, facts, status
from ..errors import InputError, StateportError
from ..files.writing import written_together
from ..model import Model, load
from ..parity.bounds import requested_bound
from ..parity.engine_report import measure_with_ratio
from ..parity.reports.wording import worst
from ..parity.vectors import Vectors
from ..plan import Plan, PlanFile, sha256
from .choice import CHOSEN, Trial, asked_precision, choose, with_verdicts
from .variants import Variant, make_variants


@dataclass(frozen=True)
class TuningGoal:
    """The load, the goal and the budget of a search.

    Attributes:
        streams: how many live sequences step together.
        chunks: the steps per call that the caller can use.
        goal: "latency", the time of a call; or "throughput", the time of a core per step.
        snr: the least signal-to-noise ratio in decibels; None for float32 alone, bounded by
            multiples of the floor.
    """

    streams: int = 1
    chunks: tuple[int, ...] = (1,)
    goal: str = "latency"
    snr: float | None = None

    def __post_init__(self) -> None:
        if self.goal == "latency" and len(self.chunks) > 1:
            raise InputError(
                f"For latency one chunk length is needed, and {len(self.chunks)} came: the "
                "shortest would always win. Give one, or ask for throughput."
            )


@dataclass(frozen=True)
class Tuned:
    """The result of a search.

    Attributes:
        wanted: the load, the goal and the budget.
        trials: the plans that were tried, the fastest first.
        notes: what could not be tried, and why.
        busy: the load average before the search; None where the system does not report it.
    """

    wanted: TuningGoal
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = field(default=())
    busy: float | None = None

    @property
    def best(self) -> Trial:
        """The trial that was chosen."""
        return next(trial for trial in self.trials if trial.verdict == CHOSEN)


def tune(
    model: Path,
    vectors: Vectors,
    path: Path,
    wanted: TuningGoal,
    *,
    engines: Sequence[str] = (),
    threads: Sequence[int] = (1,),
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    progress: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Finds the fastest plan for a load and writes it, with the files that it needs beside it.

    Every plan that is possible here is measured, all in turns, and verified. Of those that pass,
    the fastest is chosen, or a simpler one that is as fast within the noise (`choice`). The plan
    that is chosen has been verified as it will run.

    Args:
        model: the model's file.
        vectors: the answers that were recorded beside it.
        path: the plan to write.
        wanted: the load, the goal and the budget.
        engines: the engines to try; by default all that work here.
        threads: the numbers of threads per call to try.
        rounds: how many turns each plan gets.
        seconds: the length of a turn.
        progress: is called with a text before each part of the work: "part" or "part: detail".

    Raises:
        StateportError: none passes, the model as it is among them.
        InputError: the model has no such axes.
        FileError: a file cannot be read or written.
    """
    with tempfile.TemporaryDirectory(prefix="stateport-tune-") as name:
        folder = Path(name)
        load = load_average()
        progress("making variants")
        variants: list[Variant] = []
        notes: list[str] = []

        for variant in make_variants(model, folder, reduced=wanted.snr is not None):
            if isinstance(variant, str):
                notes.append(variant)
            else:
                variants.append(variant)

        search = _Search(model, folder, wanted, progress)
        candidates = list(search.list_candidates(variants, engines or _working_engines(), threads))
        trials = search.measure(candidates, rounds, seconds)
        trials.sort(key=lambda trial: trial.cost(wanted.goal))
        verified = search.verify(trials, vectors)

        if not any(trial.passed for trial in verified):
            reason = verified[0].verdict if verified else "none is possible here."
            raise StateportError(f"No plan for {model} passes. The quickest: {reason}")

        tuned = Tuned(wanted, tuple(verified), tuple(notes), load)
        _write_plan(path, tuned)

    return tuned


def _working_engines() -> list[str]:
    """The engines that work here, except those that are slow by design."""
    names = []
    for name in engine_names():
        if facts(name).for_speed:
            names.append(name)

    working = []
    for name in names:
        if status(name).problem is None:
            working.append(name)
    return working


@dataclass(frozen=True)
class _Search:
    """A search for the fastest plan; `folder` is for the files of variants and plans."""

    model: Path
    folder: Path
    wanted: TuningGoal
    progress: Callable[[str], None]

    def list_candidates(
        self, variants: Sequence[Variant], engines: Sequence[str], threads: Sequence[int]
    ) -> Iterator[Trial]:
        """Every plan that is possible here, not measured yet."""
        model_digest = sha256(self.model)
        for variant in variants:
            whole = _plan_file(variant.whole)
            step = _plan_file(variant.step)
            for engine, options, count, chunk in self._ways_to_run(variant, engines, threads):
                yield Trial(
                    variant,
                    Plan(model_digest, engine, count, options, variant.name, whole, step, chunk),
                )

    def _ways_to_run(
        self, variant: Variant, engines: Sequence[str], threads: Sequence[int]
    ) -> Iterator[tuple[str, Mapping[str, object], int, int]]:
        """The engines, options, numbers of threads and chunk lengths that fit a variant."""
        chunks = list(self._chunks_of(variant))
        for engine in engines:
            engine_facts = facts(engine)
            if not _can_run(engine, engine_facts, variant):
                continue

            counts = [*filter(engine_facts.can_use, threads)]

            for options in self._options_of(engine_facts):
                yield from product([engine], [options], counts, chunks)

    def _chunks_of(self, variant: Variant) -> Iterator[int]:
        """The chunk lengths that a variant is tried with."""
        # A variant that has a file for single steps alone is no faster in longer chunks.
        single_steps_only = variant.step is not None and variant.whole is None
        for chunk in self.wanted.chunks:
            if chunk == 1 or not single_steps_only:
                yield chunk

    def _options_of(self, engine_facts: EngineFacts) -> Iterator[Mapping[str, object]]:
        """The options under which an engine is tried; without a budget, only those of float32."""
        for precision, options in engine_facts.precisions.items():
            if precision == "float32" or self.wanted.snr is not None:
                yield options

    def measure(self, candidates: Sequence[Trial], rounds: int, seconds: float) -> list[Trial]:
        """The candidates with their times, or the reason why they cannot run."""
        calls: dict[int, Callable[[], object]] = {}
        failures: dict[int, str] = {}
        for number, trial in enumerate(candidates):
            self.progress(f"loading plans: {trial.variant.name} on {trial.plan.engine}")
            try:
                calls[number] = self._prepare_call(trial.plan)
            except _CannotRunError as error:
                failures[number] = f"cannot run: {error}"
            except _SameAsFloat32Error as error:
                failures[number] = str(error)

        times = measure(
            calls,
            rounds=rounds,
            seconds=seconds,
            progress=lambda share: self.progress(f"measuring {len(calls)} plans: {share:.0%}"),
        )
        return [
            replace(trial, times=times.get(number), verdict=failures.get(number, ""))
            for number, trial in enumerate(candidates)
        ]

    def _prepare_call(self, plan: Plan) -> Callable[[], object]:
        """One call of the load under a plan, made once already."""
        with _left_out():
            loaded = self._load(plan)
        asked = asked_precision(plan)
        if asked != "float32" and loaded.precision == "float32":
            raise _SameAsFloat32Error(f"this processor has no {asked}: the same as float32")

        call = step_call(loaded, Workload(self.wanted.streams, plan.chunk))
        with _left_out():
            call()
        return call

    def verify(self, trials: Sequence[Trial], vectors: Vectors) -> list[Trial]:
        """The trials with their verdicts and decibels; at most one is chosen.

        Plans that differ in the number of threads or in the length of chunks alone give the same
        answers but for the order of sums. So one of them is verified for all, and the one that is
        chosen once more, as it will run.
        """
        verdicts: dict[Hashable, _Verified] = {}
        judged: list[Trial] = []
        for trial in trials:
            if trial.times is not None:
                key = _arithmetic(trial)
                if key not in verdicts:
                    has_passed = any(earlier.passed for earlier in judged)
                    verdicts[key] = self._verify(trial, vectors, may_fail=has_passed)
                trial = verdicts[key].of(trial)
            judged.append(trial)

        while any(trial.passed for trial in judged):
            chosen = choose(judged, self.wanted.goal)
            if chosen.plan != verdicts[_arithmetic(chosen)].plan:
                verified = self._verify(chosen, vectors).of(chosen)
                if not verified.passed:
                    judged[judged.index(chosen)] = verified
                    continue
            return with_verdicts(judged, chosen, self.wanted.goal)
        return judged

    def _verify(self, trial: Trial, vectors: Vectors, *, may_fail: bool = False) -> _Verified:
        """The verdict on a plan, and its signal-to-noise ratio.

        `may_fail` says that an error is the verdict on this plan: others have passed.
        """
        self.progress(f"verifying plans: {trial.variant.name} on {trial.plan.engine}")
        try:
            report, ratio = measure_with_ratio(
                self._load(trial.plan),
                vectors,
                name=trial.variant.name,
                wanted=requested_bound(snr=self.wanted.snr),
            )
        except StateportError as error:
            if not may_fail:
                raise
            return _Verified(trial.plan, f"cannot be verified: {error}", None)
        verdict = CHOSEN if report.passed else worst(report)
        return _Verified(trial.plan, verdict, ratio)

    def _load(self, plan: Plan) -> Model:
        """The model under a plan, loaded as users load it."""
        path = self.folder / "plan.json"
        plan.save(path)
        return load(self.model, plan=path)


@dataclass(frozen=True)
class _Verified:
    """The verdict on a plan, which is that on all plans with the same arithmetic."""

    plan: Plan
    verdict: str
    decibels: float | None

    def of(self, trial: Trial) -> Trial:
        """The trial with this verdict."""
        return replace(trial, verdict=self.verdict, decibels=self.decibels)


class _CannotRunError(Exception):
    """An engine, which may be another distribution's, refuses a plan or fails on it."""


@contextlib.contextmanager
def _left_out() -> Iterator[None]:
    """Turns what an engine raises into a reason to leave a plan out: others may still run.

    Raises:
        _CannotRunError: the engine failed, with its reason.
    """
    try:
        yield
    except StateportError as error:
        raise _CannotRunError(str(error)) from error


class _SameAsFloat32Error(Exception):
    """A plan asks for a precision that this processor lacks, so that it runs in float32."""


def _can_run(engine: str, engine_facts: EngineFacts, variant: Variant) -> bool:
    """Whether an engine can run a variant at all."""
    is_for_engine = not variant.engines or engine in variant.engines
    has_graph = variant.step is None or engine_facts.step_graphs
    return is_for_engine and has_graph


def _arithmetic(trial: Trial) -> Hashable:
    """What the answers of a plan depend on, but for the order of sums."""
    plan = trial.plan
    return trial.variant.name, plan.engine, tuple(sorted(map(str, plan.options.items())))


def _plan_file(path: Path | None) -> PlanFile | None:
    if path is None:
        return None
    return PlanFile.of(path)


def _write_plan(path: Path, tuned: Tuned) -> None:
    """Writes the best plan, and its files beside it."""
    best = tuned.best
    assert best.times is not None
    measured = {
        "streams": tuned.wanted.streams,
        "time": best.plan.chunk,
        "goal": tuned.wanted.goal,
        "snr": tuned.wanted.snr,
        "seconds": best.times.median,
        "quartiles": list(best.times.quartiles),
    }

    with written_together(path) as folder:
        whole = _copy_file(best.variant.whole, folder / f"{path.stem}.whole.onnx")
        step = _copy_file(best.variant.step, folder / f"{path.stem}.step.onnx")
        plan = replace(best.plan, measured=measured, whole=whole, step=step)
        plan.save(folder / path.name)


def _copy_file(file: Path | None, target: Path) -> PlanFile | None:
    """Copies a file of a variant beside the plan; None where the model's own file is run."""
    if file is None:
        return None
    shutil.copyfile(file, target)
    return PlanFile.of(target)
