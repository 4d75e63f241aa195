"""The search: make what is possible, measure it side by side, verify from the quickest on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ..bench.timing import ROUNDS, SECONDS, Times, measure
from ..bench.workload import Workload, step_call
from ..engines import engine_names, status
from ..errors import EngineError, InputError, StateportError
from ..files.writing import written_together
from ..model import Model, load
from ..parity.bounds import requested_bound
from ..parity.engine_report import measure_model
from ..parity.reports.wording import worst
from ..parity.vectors import Vectors
from ..plan import Plan, PlanFile, sha256
from .variants import Variant, make_variants

#: The options under which an engine is tried, and the precision that they give.
_OPTIONS: Final[Mapping[str, Sequence[tuple[dict[str, object], str]]]] = {
    "openvino": (({}, "float32"), ({"precision": "bfloat16"}, "bfloat16")),
}
#: The engines that work in the host's memory, and can go from one graph to another between calls.
_HOST: Final = ("ort-cpu", "openvino")
#: Those that compute in one thread.
_ONE_THREAD: Final = ("tract", "onnx-reference")


@dataclass(frozen=True)
class TuningGoal:
    """What is asked for.

    Attributes:
        streams: how many live sequences step together.
        chunks: the steps per call that the user can do with.
        goal: "latency", the time of a call; or "throughput", the time of a core per step.
        snr: the budget in decibels; None for float32, judged by the floor.
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
class Trial:
    """One plan that was tried.

    Attributes:
        variant: what was run.
        plan: how.
        times: what it took; None where it could not run.
        verdict: "pass", or in words why it was discarded, or not looked at.
    """

    variant: Variant
    plan: Plan
    times: Times | None = None
    verdict: str = ""

    @property
    def passed(self) -> bool:
        """Whether it was verified and passed."""
        return self.verdict == "pass"

    def cost(self, goal: str) -> float:
        """What is to be as small as can be, in seconds."""
        if self.times is None:
            return float("inf")
        if goal == "latency":
            return self.times.median
        return self.times.median * self.plan.threads / self.plan.chunk


@dataclass(frozen=True)
class Tuned:
    """What was found: the trials, the quickest first; and what could not be tried, and why."""

    wanted: TuningGoal
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def best(self) -> Trial:
        """The quickest that passes."""
        return next(trial for trial in self.trials if trial.passed)


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
    """Finds the quickest plan for a load and writes it, with the files that it needs beside it.

    Every plan that is possible here is measured, all in turns. Then, from the quickest on, each is
    verified as it would run, until one passes.

    Args:
        model: the model's file.
        vectors: the answers that were recorded beside it.
        path: the plan to write.
        wanted: the load, the goal and the budget.
        engines: which to try; by default all that work here.
        threads: how many threads per call to try.
        rounds: how many turns each gets.
        seconds: how long a turn is.
        progress: is told what is being done.

    Raises:
        StateportError: none passes, the model as it is among them.
        InputError: the model has no such axes.
        FileError: a file cannot be read or written.
    """
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="stateport-tune-") as place:
        folder = Path(place)
        progress("making variants")
        variants: list[Variant] = []
        for made in make_variants(model, folder, reduced=wanted.snr is not None):
            (notes if isinstance(made, str) else variants).append(made)  # type: ignore[arg-type]
        digest = sha256(model)
        with_files = [(v, (_file(v.whole), _file(v.step))) for v in variants]
        candidates = [
            Trial(variant, Plan(digest, engine, count, options, variant.name, *files, chunk))
            for variant, files in with_files
            for engine in engines or _working()
            for options, precision in _OPTIONS.get(engine, (({}, "float32"),))
            if wanted.snr is not None or precision == "float32"
            if engine in _HOST or variant.step is None
            if engine in variant.engines or not variant.engines
            for count in threads
            if count == 1 or engine not in _ONE_THREAD
            for chunk in wanted.chunks
            if variant.step is None or variant.whole is not None or chunk == 1
        ]
        trials = _measured(model, folder, candidates, wanted, rounds, seconds, progress)
        trials.sort(key=lambda trial: trial.cost(wanted.goal))
        trials = list(_verified(model, folder, vectors, trials, wanted, progress))
        tuned = Tuned(wanted, tuple(trials), tuple(notes))
        if not any(trial.passed for trial in trials):
            reason = trials[0].verdict if trials else "none is possible here."
            raise StateportError(f"No plan for {model} passes. The quickest: {reason}")
        _write(path, tuned)
    return tuned


def _working() -> list[str]:
    """The engines that work here, but for the one that is made to be read and not to be quick."""
    names = [name for name in engine_names() if name != "onnx-reference"]
    return [name for name in names if status(name).problem is None]


def _file(path: Path | None) -> PlanFile | None:
    return None if path is None else PlanFile.of(path)


def _measured(
    model: Path,
    folder: Path,
    candidates: Sequence[Trial],
    wanted: TuningGoal,
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> list[Trial]:
    calls: dict[str, Callable[[], object]] = {}
    failed: dict[str, str] = {}
    for number, trial in enumerate(candidates):
        progress(f"loading {trial.variant.name} on {trial.plan.engine}")
        try:
            loaded = _load(model, folder, trial.plan)
            if (asked := trial.plan.options.get("precision")) and loaded.precision == "float32":
                failed[str(number)] = f"this processor has no {asked}: the same as float32"
                continue
            calls[str(number)] = step_call(loaded, Workload(wanted.streams, trial.plan.chunk))
            calls[str(number)]()
        except EngineError as error:
            calls.pop(str(number), None)
            failed[str(number)] = f"cannot run: {error}"
    times = measure(
        calls,
        rounds=rounds,
        seconds=seconds,
        progress=lambda share: progress(f"measuring {len(calls)} plans: {share:.0%}"),
    )
    return [
        replace(trial, times=times.get(str(number)), verdict=failed.get(str(number), ""))
        for number, trial in enumerate(candidates)
    ]


def _verified(
    model: Path,
    folder: Path,
    vectors: Vectors,
    trials: Sequence[Trial],
    wanted: TuningGoal,
    progress: Callable[[str], None],
) -> Iterator[Trial]:
    found = False
    for trial in trials:
        if trial.times is None:
            yield trial
            continue
        if found:
            yield replace(trial, verdict="slower")
            continue
        progress(f"verifying {trial.variant.name} on {trial.plan.engine}")
        loaded = _load(model, folder, trial.plan)
        bound = requested_bound(snr=wanted.snr)
        report = measure_model(loaded, vectors, name=trial.variant.name, wanted=bound)
        found = report.passed
        yield replace(trial, verdict="pass" if found else worst(report))


def _load(model: Path, folder: Path, plan: Plan) -> Model:
    """The model under a plan, as users load it."""
    place = folder / "plan.json"
    plan.save(place)
    return load(model, plan=place)


def _write(path: Path, tuned: Tuned) -> None:
    """Writes the best plan, and its files beside it."""
    best = tuned.best
    with written_together(path) as folder:
        files: dict[str, PlanFile] = {}
        for kind, file in (("whole", best.variant.whole), ("step", best.variant.step)):
            if file is not None:
                target = folder / f"{path.stem}.{kind}.onnx"
                shutil.copyfile(file, target)
                files[kind] = PlanFile.of(target)
        assert best.times is not None
        low, high = best.times.quartiles
        measured = {
            "streams": tuned.wanted.streams,
            "time": best.plan.chunk,
            "goal": tuned.wanted.goal,
            "snr": tuned.wanted.snr,
            "seconds": best.times.median,
            "quartiles": [low, high],
        }
        replace(best.plan, measured=measured, **files).save(folder / path.name)  # type: ignore[arg-type]
