"""One file on many engines, each in a process of its own, and streams carried between them."""

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
from .pair import Standing, remarks
from .vectors import Vectors
from .workers.client import ask
from .workers.protocol import LOCATING, Job, measurement_from_json, report_from_json

TIME_LIMIT: Final = 300.0
_NO_ANSWER: Final = "It ended without an answer."
Progress = Callable[[str], None]


@dataclass(frozen=True)
class EngineVerdict:
    """What became of one engine.

    Attributes:
        choice: the engine, its options and its interpreter.
        report: what was measured; None where nothing was.
        problem: why nothing was measured.
        available: whether the engine is there at all.
        located: the first node that is off, where that was asked for.
        not_located: why there is none.
        not_handed_over: why others could not go on from its state, where they could not.
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
    """A stream that began on one engine and went on with another.

    Attributes:
        source: the engine of the first half.
        target: the engine of the second half.
        measurements: how far the whole sequence is from the truth, by output.
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
        grown: the errors that grew since an earlier report.
        required: whether an engine that is not here is a failure.
        remarks: what has to be known of the file and the vectors; mostly nothing.
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
        ran = [row for row in self.rows if row.status != "not run"]
        parts: list[EngineVerdict | CarriedStream] = [*ran, *self.carried]
        wrong = self.grown or (self.required and self.missing)
        return bool(ran) and not wrong and all(part.status == "passed" for part in parts)

    @property
    def missing(self) -> tuple[str, ...]:
        """The engines that are not here."""
        return tuple(str(row.choice) for row in self.rows if row.status == "not run")

    @property
    def reports(self) -> tuple[EngineReport, ...]:
        """What was measured."""
        return tuple(row.report for row in self.rows if row.report is not None)


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
    progress: Progress = lambda _: None,
) -> Matrix:
    """Verifies a model on every engine, and carries a stream from each to each.

    Args:
        model: the model's file.
        vectors: the recorded answers' file.
        choices: the engines; one that comes twice is run once.
        plan: a plan of `stateport tune`, which says the engine in place of `choices`' one.
        wanted: a bound in place of stateport's own.
        locate: whether to look for the first node that is off, and to write it beside the model.
        require: whether an engine that is not here is a failure.
        limit: the seconds that an engine may take over one case.
        progress: is called with what is being done.

    Raises:
        FileError: the vectors cannot be read; there is no such interpreter; or somebody else wrote
            the model or the vectors in the meantime.
    """
    choices = list({str(choice): choice for choice in choices}.values())
    standing = Standing([model, vectors])
    # Once here, so that what is wrong with them is one error and not one per engine.
    recorded = Vectors.load(vectors)
    said = remarks(model, recorded)
    stateful = handover_case(recorded) is not None
    job = {
        "model": str(model.resolve()),
        "vectors": str(vectors.resolve()),
        "plan": None if plan is None else str(plan.resolve()),
        "wanted": {} if wanted is None else asdict(wanted),
    }
    with tempfile.TemporaryDirectory(prefix="stateport.") as folder:
        places = [Path(folder) / str(number) for number in range(len(choices))]
        several = len(choices) > 1 and stateful
        rows = tuple(
            _row(
                job,
                choice,
                limit,
                progress,
                hand_over=str(place) if several else None,
                locate=str(_node_file(model, choice)) if locate else None,
            )
            for choice, place in zip(choices, places, strict=True)
        )
        carried = tuple(_carried(job, rows, places, limit, progress)) if several else ()
    standing.check()  # each engine has read the files by itself
    return Matrix(str(model), rows, carried, required=require, remarks=said)


def _row(
    job: Mapping[str, Any],
    choice: EngineChoice,
    limit: float,
    progress: Progress,
    **more: str | None,
) -> EngineVerdict:
    told = _told(_job(job, choice, **more), choice, limit, progress)
    answer = {name: value for message in told for name, value in message.items()}
    if "unavailable" in answer:
        return EngineVerdict(choice, problem=answer["unavailable"], available=False)
    died = answer.get("died")
    if "report" not in answer or (died and answer["while"] != LOCATING):
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


def _carried(
    job: Mapping[str, Any],
    rows: Sequence[EngineVerdict],
    places: Sequence[Path],
    limit: float,
    progress: Progress,
) -> Iterator[CarriedStream]:
    """Every engine goes on from the state of every other one."""
    for target in rows:
        if target.report is None:
            continue
        sources = {
            str(place): source
            for place, source in zip(places, rows, strict=True)
            if source is not target and source.report is not None
        }
        if sources:
            yield from _onto(job, target, sources, limit, progress)


def _onto(
    job: Mapping[str, Any],
    target: EngineVerdict,
    sources: Mapping[str, EngineVerdict],
    limit: float,
    progress: Progress,
) -> Iterator[CarriedStream]:
    precisions = {
        place: row.report.precision
        for place, row in sources.items()
        if row.report is not None and row.not_handed_over is None
    }
    told = _told(_job(job, target.choice, take_over=precisions), target.choice, limit, progress)
    found = {message["carried"]: message for message in told if "carried" in message}
    died = next((message["died"] for message in told if "died" in message), _NO_ANSWER)
    for place, source in sources.items():
        message = found.get(place, {"problem": source.not_handed_over or died})
        yield CarriedStream(
            str(source.choice),
            str(target.choice),
            tuple(measurement_from_json(part) for part in message.get("measurements", ())),
            message.get("problem"),
        )


def _told(job: Job, choice: EngineChoice, limit: float, progress: Progress) -> list[dict[str, Any]]:
    def said(doing: str) -> None:
        progress(f"{choice}: {doing}")

    return ask(job, python=choice.python, limit=limit, progress=said)


def _job(job: Mapping[str, Any], choice: EngineChoice, **more: Any) -> Job:
    planned = job["plan"] is not None
    return Job(engine=None if planned else choice.name, options=choice.options, **job, **more)
