"""The verdict of `verify` on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..engine_report import EngineReport, Measurement
from ..matrix import Matrix
from .common import pairs
from .wording import cell, decibels, kinds, multiple, number, place, precision_note, reason, verdict

_PROBLEMS_SHOWN: Final = 3
# Only what has a colour is a `Text`; all else is a `str`, which is shown as it is.
_VERDICTS: Final = {
    "passed": Text("pass", "green"),
    "failed": Text("FAIL", "bold red"),
    "error": Text("ERROR", "bold red"),
    "not run": Text("not run", "dim"),
}


def table(report: EngineReport) -> Table:
    """One row per case, its worst output; of a case that fails, every output that does."""
    grid = _titled(f"{report.model} on {report.engine} ({report.engine_version})")
    grid.add_column("case", overflow="fold")
    grid.add_column("output", overflow="fold")
    reduced = any(m.snr is not None for m in report.measurements)
    for heading in ("error", "floor", "SNR" if reduced else "x floor", "step"):
        grid.add_column(heading, justify="right")
    grid.add_column("verdict")
    for shown in _worst(report.measurements):
        said = _VERDICTS["passed" if shown.passed else "failed"]
        numbers = [
            number(shown.error),
            number(shown.floor),
            decibels(shown.snr) if reduced else multiple(shown.multiple),
        ]
        step = "" if shown.step is None else str(shown.step)
        grid.add_row(shown.case, shown.output, *numbers, step, said)
    return grid


def grid(matrix: Matrix) -> Table:
    """Engines down, kinds of cases across, the worst error in multiples of the floor."""
    shown = _titled(matrix.model)
    shown.add_column("engine", overflow="fold")
    shown.add_column("version", overflow="fold")
    headings = kinds(matrix)
    for heading in headings:
        shown.add_column(heading, justify="right", overflow="fold")
    shown.add_column("verdict")
    for row in matrix.rows:
        cells = [cell(row, heading) for heading in headings]
        version = row.report.engine_version if row.report else ""
        shown.add_row(str(row.choice), version, *cells, _VERDICTS[row.status])
    return shown


def carried_grid(matrix: Matrix) -> Table:
    """The engine that a stream began on down, the one that it went on with across."""
    shown = _titled("Streams carried from one engine to another")
    targets, rows = pairs(matrix)
    shown.add_column("from", overflow="fold")
    for target in targets:
        shown.add_column(f"to {target}", overflow="fold")
    for source, row in rows:
        shown.add_row(source, *("" if c is None else _VERDICTS[c.status] for c in row))
    return shown


def reasons(matrix: Matrix) -> list[str]:
    """What went wrong, engine by engine and stream by stream, and the verdict as the last line."""
    lines = [f"{row.choice}: {why}" for row in matrix.rows if (why := reason(row))]
    lines += [f"{row.choice}: {where}" for row in matrix.rows if (where := place(row))]
    lines += [f"{row.choice}: {note}" for row in matrix.rows if (note := precision_note(row))]
    lines += [f"{c.source} to {c.target}: {why}" for c in matrix.carried if (why := reason(c))]
    return [*lines, *matrix.remarks, *matrix.grown, verdict(matrix)]


def _titled(title: str) -> Table:
    return Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")


def summary(report: EngineReport) -> list[str]:
    """The verdict in one line, below lines on what could not be compared at all."""
    failed = len({m.case for m in report.measurements if not m.passed})
    cases = len({m.case for m in report.measurements})
    said = f"PASS: {cases} cases" if report.passed else f"FAIL: {failed} of {cases} cases"
    said += f" on {report.engine}, up to {report.steps} chained steps"
    ratios = [m.snr for m in report.measurements if m.snr is not None]
    if ratios:
        said += f"; the truth is {decibels(min(ratios))} above the error or more, "
        said += f"{report.bound} was wanted ({report.precision}, {report.truth} truth)"
        return [*_problems(report), f"{said}."]
    shares = [m.share for m in report.measurements if m.share is not None]
    if shares:
        worst = max(shares)
        much = f"{worst:.0%} of" if worst < 10 else f"{worst:.1e} times"
        said += f"; the worst error is {much} what is allowed ({report.bound}, "
        said += f"{report.truth} truth)"
    return [*_problems(report), f"{said}."]


def _problems(report: EngineReport) -> list[str]:
    """What kept outputs from being compared; of many, the first few."""
    found = [f"{m.case}, {m.output}: {m.problem}" for m in report.measurements if m.problem]
    rest = len(found) - _PROBLEMS_SHOWN
    return found[:_PROBLEMS_SHOWN] + [f"... and {rest} more like these."] * (rest > 0)


def _worst(measurements: Sequence[Measurement]) -> Iterator[Measurement]:
    for case in dict.fromkeys(m.case for m in measurements):
        of_case = [m for m in measurements if m.case == case]
        failed = [m for m in of_case if not m.passed]
        if of_case and all(m.problem for m in of_case):
            failed = [replace(failed[0], output="all")]
        yield from failed or [max(of_case, key=lambda m: m.share or 0.0)]
