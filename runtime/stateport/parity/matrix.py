# SPDX-License-Identifier: Apache-2.0
"""One file on many engines, each in a separate process, and streams carried between them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ..engines.choice import EngineChoice
from .bounds import RequestedBound
from .engine_report import EngineReport, Measurement
from .fault import LocatedFault
from .handover import handover_case
from .pair import Standing, narrow_weights, remarks
from .vectors import Vectors
from .workers.client import ask
from .workers.protocol import LOCATING, Job, measurement_from_json, report_from_json

TIME_LIMIT: Final = 300.0
_NO_ANSWER: Final = "It ended without an answer."
Progress = Callable[[str], None]


@dataclass(frozen=True)
class EngineVerdict:
    """The verdict on one engine.

    Attributes:
        choice: the engine, its options and its interpreter.
        report: the measurements; None where nothing was measured.
        problem: why nothing was measured.
        available: whether the engine is installed and works here.
        located: the first node that is off, if the caller asked for it.
        not_located: why no node was located.
        not_handed_over: why other engines could not continue from its state.
    """

    choice: EngineChoice
    report: EngineReport | None = None
    problem: str | None = None
    available: bool = True
    located: LocatedFault | None = None
    not_located: str | None = None
    not_handed_over: str | None = None

    @property
    def status(self) -> str:
        """`passed`, `failed`, `error` where nothing could be measured, or `not run`."""
        if self.report is not None:
            return "passed" if self.report.passed else "failed"
        return "error" if self.available else "not run"


@dataclass(frozen=True)
class CarriedStream:
    """A stream that began on one engine and was continued on another.

    Attributes:
        source: the engine of the first half.
        target: the engine of the second half.
        measurements: for each output, the error of the whole sequence.
        problem: why nothing was measured.
    """

    source: str
    target: str
    measurements: tuple[Measurement, ...] = ()
    problem: str | None = None

    @property
    def status(self) -> str:
        """`passed`, `failed`, or `error`."""
        if self.problem is not None or not self.measurements:
            return "error"
        return "passed" if all(m.passed for m in self.measurements) else "failed"


@dataclass(frozen=True)
class Matrix:
    """The verdict on one model file on several engines.

    Attributes:
        model: the model's file.
        rows: the engines.
        carried: the streams that went from one engine to another.
        grown: a line for each engine whose errors grew since an earlier report.
        required: whether an engine that is not available here is a failure.
        remarks: notes on the file and the vectors, for example that they were not written together;
            mostly none.
    """

    model: str
    rows: tuple[EngineVerdict, ...]
    carried: tuple[CarriedStream, ...] = ()
    grown: tuple[str, ...] = ()
    required: bool = False
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        verdict = "PASS" if self.passed else "FAIL"
        engines = ", ".join(f"{row.choice} {row.status}" for row in self.rows)
        return f"<stateport.Matrix {verdict}: {self.model} on {engines}>"

    @property
    def passed(self) -> bool:
        """Whether all engines that ran passed, at least one, and nothing else went wrong."""
        ran = rows_that_ran(self)
        parts: list[EngineVerdict | CarriedStream] = [*ran, *self.carried]
        all_passed = all(part.status == "passed" for part in parts)

        lacks_required = self.required and bool(self.missing)
        return bool(ran) and all_passed and not self.grown and not lacks_required

    @property
    def missing(self) -> tuple[str, ...]:
        """The engines that are not installed, or cannot start, here."""
        return tuple(str(row.choice) for row in self.rows if row.status == "not run")

    @property
    def reports(self) -> tuple[EngineReport, ...]:
        """The reports of the engines that were measured."""
        return tuple(row.report for row in self.rows if row.report is not None)


def rows_that_ran(matrix: Matrix) -> list[EngineVerdict]:
    """The verdicts on the engines that are available here."""
    return [row for row in matrix.rows if row.status != "not run"]


def run_matrix(
    model: Path,
    vectors: Path,
    choices: Sequence[EngineChoice],
    *,
    plan: Path | None = None,
    wanted: RequestedBound | None = None,
    locate: bool = False,
    require: bool = False,
    limit: float = TIME_LIMIT,
    more_remarks: Sequence[str] = (),
    progress: Progress = lambda _: None,
) -> Matrix:
    """Verifies a model on every engine, and carries a stream from each engine to each.

    Args:
        model: the model's file.
        vectors: the recorded answers' file.
        choices: the engines; one that comes twice is run once.
        plan: a plan of `stateport tune`, whose engine replaces the names in `choices`.
        wanted: a bound that replaces stateport's own.
        locate: whether to look for the first node that is off, and to write it beside the model.
        require: whether an engine that is not available here is a failure.
        limit: the seconds that an engine may take over one case.
        more_remarks: notes that the verdict has besides its own.
        progress: is called with a text before each part of the work.

    Raises:
        FileError: the vectors cannot be read; there is no such interpreter; or another process
            wrote the model or the vectors in the meantime.
    """
    choices = list({str(choice): choice for choice in choices}.values())
    standing = Standing([model, vectors])
    # The vectors are read here once, so that a fault in them is one error, not one per engine.
    recorded = Vectors.load(vectors)
    notes = remarks(model, recorded)
    if wanted is None:
        notes = (*notes, *narrow_weights(model))

    job = _job_of_all(model, vectors, plan, wanted)
    carries = len(choices) > 1 and handover_case(recorded) is not None

    with tempfile.TemporaryDirectory(prefix="stateport.") as folder:
        states = [Path(folder) / str(number) for number in range(len(choices))]
        measured = []
        for choice, state in zip(choices, states, strict=True):
            files = {}
            if carries:
                files["hand_over"] = str(state)
            if locate:
                files["locate"] = str(_node_file(model, choice))
            measured.append(_verify_engine(job, choice, limit, progress, **files))

        rows = tuple(measured)
        carried = tuple(_carry_streams(job, rows, states, limit, progress)) if carries else ()

    standing.check()  # each engine has read the files by itself
    return Matrix(str(model), rows, carried, required=require, remarks=(*more_remarks, *notes))


def _job_of_all(
    model: Path, vectors: Path, plan: Path | None, wanted: RequestedBound | None
) -> dict[str, Any]:
    """What the jobs of all engines have."""
    return {
        "model": str(model.resolve()),
        "vectors": str(vectors.resolve()),
        "plan": None if plan is None else str(plan.resolve()),
        "wanted": {} if wanted is None else asdict(wanted),
    }


def _verify_engine(
    job: Mapping[str, Any],
    choice: EngineChoice,
    limit: float,
    progress: Progress,
    **more: str | None,
) -> EngineVerdict:
    messages = _ask(_job(job, choice, **more), choice, limit, progress)
    answer: dict[str, Any] = {}
    for message in messages:
        answer.update(message)

    if "unavailable" in answer:
        return EngineVerdict(choice, problem=answer["unavailable"], available=False)

    died = answer.get("died")
    # An engine that dies while a fault is located has been measured before.
    died_early = died and answer["while"] != LOCATING
    if "report" not in answer or died_early:
        return EngineVerdict(choice, problem=answer.get("error") or died or _NO_ANSWER)

    located = LocatedFault(**answer["located"]) if "located" in answer else None
    return EngineVerdict(
        choice,
        report_from_json(answer["report"]),
        located=located,
        not_located=answer.get("not_located") or died,
        not_handed_over=answer.get("not_handed_over"),
    )


def _node_file(model: Path, choice: EngineChoice) -> Path:
    """`m.onnx` -> `m.ort-cpu.node.onnx`."""
    engine = re.sub(r"[^\w.-]+", "-", str(choice))
    return model.resolve().with_name(f"{model.stem}.{engine}.node.onnx")


def _carry_streams(
    job: Mapping[str, Any],
    rows: Sequence[EngineVerdict],
    states: Sequence[Path],
    limit: float,
    progress: Progress,
) -> Iterator[CarriedStream]:
    """Continues on every engine the streams that all the other engines began."""
    for target in rows:
        if target.report is None:
            continue

        sources = {}
        for state, source in zip(states, rows, strict=True):
            if source is not target and source.report is not None:
                sources[str(state)] = source

        if sources:
            yield from _continue_on(job, target, sources, limit, progress)


def _continue_on(
    job: Mapping[str, Any],
    target: EngineVerdict,
    sources: Mapping[str, EngineVerdict],
    limit: float,
    progress: Progress,
) -> Iterator[CarriedStream]:
    """Continues on one engine the streams of others; `sources` are by the folder of their state."""
    job_on_target = _job(job, target.choice, take_over=_handed_over(sources))
    messages = _ask(job_on_target, target.choice, limit, progress)

    answers = {message["carried"]: message for message in messages if "carried" in message}
    died = next((message["died"] for message in messages if "died" in message), _NO_ANSWER)
    for state, source in sources.items():
        answer = answers.get(state, {"problem": source.not_handed_over or died})
        measurements = [*map(measurement_from_json, answer.get("measurements", ()))]
        yield CarriedStream(
            str(source.choice), str(target.choice), tuple(measurements), answer.get("problem")
        )


def _handed_over(sources: Mapping[str, EngineVerdict]) -> dict[str, str]:
    """By the folder of a state, the precision in which its engine computed."""
    precisions = {}
    for state, row in sources.items():
        if row.report is not None and row.not_handed_over is None:
            precisions[state] = row.report.precision
    return precisions


def _ask(job: Job, choice: EngineChoice, limit: float, progress: Progress) -> list[dict[str, Any]]:
    """What the process that does the job answers."""

    def report_progress(doing: str) -> None:
        progress(f"{choice}: {doing}")

    return ask(job, python=choice.python, limit=limit, progress=report_progress)


def _job(job: Mapping[str, Any], choice: EngineChoice, **more: Any) -> Job:
    planned = job["plan"] is not None
    return Job(engine=None if planned else choice.name, options=choice.options, **job, **more)
