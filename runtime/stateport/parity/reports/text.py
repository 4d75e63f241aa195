"""The verdict of `verify`, for people and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ..errors import FileError
from ..files import written_atomically
from .verify import Measurement, Report

_PROBLEMS_SHOWN: Final = 3


def table(report: Report) -> Table:
    """One row per case, its worst output; of a case that fails, every output that does."""
    grid = Table(
        box=SIMPLE_HEAD,
        title=escape(f"{report.model} on {report.engine} ({report.engine_version})"),
        title_justify="left",
        title_style="bold",
    )
    grid.add_column("case")
    grid.add_column("output")
    reduced = any(m.snr is not None for m in report.measurements)
    for heading in ("error", "floor", "SNR" if reduced else "x floor", "step"):
        grid.add_column(heading, justify="right")
    grid.add_column("verdict")
    for shown in _worst(report.measurements):
        verdict = "[green]pass[/]" if shown.passed else "[bold red]FAIL[/]"
        numbers = [
            _number(shown.error),
            _number(shown.floor),
            _decibels(shown.snr) if reduced else _multiple(shown.multiple),
        ]
        step = "" if shown.step is None else str(shown.step)
        grid.add_row(escape(shown.case), escape(shown.output), *numbers, step, verdict)
    return grid


def summary(report: Report) -> str:
    """The verdict in one line, below what could not be compared at all."""
    failed = len({m.case for m in report.measurements if not m.passed})
    cases = len({m.case for m in report.measurements})
    verdict = f"PASS: {cases} cases" if report.passed else f"FAIL: {failed} of {cases} cases"
    verdict += f" on {report.engine}, up to {report.steps} chained steps"
    ratios = [m.snr for m in report.measurements if m.snr is not None]
    if ratios:
        verdict += f"; the truth is {_decibels(min(ratios))} above the error or more, "
        verdict += f"{report.bound} was wanted ({report.precision}, {report.truth} truth)"
        return "\n".join([*_problems(report), f"{verdict}."])
    shares = [m.share for m in report.measurements if m.share is not None]
    if shares:
        worst = max(shares)
        much = f"{worst:.0%} of" if worst < 10 else f"{worst:.1e} times"
        verdict += f"; the worst error is {much} what is allowed ({report.bound}, "
        verdict += f"{report.truth} truth)"
    return "\n".join([*_problems(report), f"{verdict}."])


def worst(report: Report) -> str:
    """The worst of a failed report in one sentence."""
    problems = _problems(report)
    if problems:
        return f"{problems[0].rstrip('.')}."
    one = max(report.measurements, key=lambda m: m.share or 0.0)
    if one.snr is not None:
        return (
            f"{one.case}: the truth of {one.output} is {_decibels(one.snr)} above the error at "
            f"step {one.step}, {report.bound} was wanted."
        )
    return (
        f"{one.case}: {one.output} is {_number(one.error)} off at step {one.step}, where PyTorch "
        f"itself loses {_number(one.floor)}."
    )


def _problems(report: Report) -> list[str]:
    """What kept outputs from being compared; of many, the first few."""
    found = [f"{m.case}, {m.output}: {m.problem}" for m in report.measurements if m.problem]
    rest = len(found) - _PROBLEMS_SHOWN
    return found[:_PROBLEMS_SHOWN] + [f"... and {rest} more like these."] * (rest > 0)


def to_json(reports: Sequence[Report]) -> str:
    """All reports as one JSON document; an infinite error is the string "inf"."""
    return json.dumps(
        {"version": 1, "reports": [_document(report) for report in reports]}, indent=1
    )


def write(reports: Sequence[Report], path: Path) -> None:
    """Writes the reports in the form that the file's ending asks for.

    Raises:
        FileError: the ending is unknown, or the file cannot be written.
    """
    if path.suffix != ".json":
        raise FileError(f"{path} has an unknown ending; reports are written as .json.")
    with written_atomically(path) as part:
        part.write_text(to_json(reports) + "\n", encoding="utf-8")


def _document(report: Report) -> dict[str, Any]:
    document = asdict(report)
    document["passed"] = report.passed
    document["measurements"] = [
        {**{key: _plain(value) for key, value in asdict(m).items()}, "passed": m.passed}
        for m in report.measurements
    ]
    return document


def _plain(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _worst(measurements: Sequence[Measurement]) -> Iterator[Measurement]:
    for case in dict.fromkeys(m.case for m in measurements):
        of_case = [m for m in measurements if m.case == case]
        failed = [m for m in of_case if not m.passed]
        if of_case and all(m.problem for m in of_case):
            failed = [replace(failed[0], output="all")]
        yield from failed or [max(of_case, key=lambda m: m.share or 0.0)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} dB"


def _multiple(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 1000 else f"{value:.0e}"
