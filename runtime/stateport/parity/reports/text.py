# SPDX-License-Identifier: Apache-2.0
"""The verdict of `verify` on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from rich.text import Text

from ...table import Column, Table
from ..engine_report import EngineReport, Measurement
from ..matrix import Matrix
from .common import pairs
from .wording import (
    cell,
    decibels,
    kinds,
    multiple,
    number,
    outcome,
    place,
    precision_note,
    reason,
    verdict,
)

_PROBLEMS_SHOWN: Final = 3
# Only what has a colour is a `Text`; a `str` is shown as it is.
_VERDICTS: Final = {
    "passed": Text("pass", "green"),
    "failed": Text("FAIL", "bold red"),
    "error": Text("ERROR", "bold red"),
    "not run": Text("not run", "dim"),
}


def table(report: EngineReport) -> Table:
    """One row per case, with its worst output; of a case that fails, each output that fails."""
    reduced = any(m.snr is not None for m in report.measurements)
    grid = Table(
        Column("case"),
        Column("output"),
        Column("error", rank=3, right=True),
        Column("floor", rank=4, right=True),
        Column("SNR" if reduced else "x floor", rank=1, right=True),
        Column("step", rank=2, right=True),
        Column("verdict"),
        title=f"{report.model} on {report.engine} ({report.engine_version})",
    )

    for worst in _worst_of_cases(report.measurements):
        grid.add(
            worst.case,
            worst.output,
            number(worst.error),
            number(worst.floor or None),
            decibels(worst.snr) if reduced else multiple(worst.multiple),
            "" if worst.step is None else str(worst.step),
            _VERDICTS[outcome(worst)],
        )

    return grid


def grid(matrix: Matrix) -> Table:
    """Engines down, kinds of cases across, the worst error in multiples of the floor."""
    headings = kinds(matrix)
    # The version is left out first, then the kinds from the first on: the longest cases are last.
    ranked = enumerate(reversed(headings), 1)
    ranks = {heading: rank for rank, heading in ranked}
    grid = Table(
        Column("engine"),
        Column("version", rank=len(headings) + 1),
        *(Column(heading, rank=ranks[heading], right=True) for heading in headings),
        Column("verdict"),
        title=matrix.model,
    )

    for row in matrix.rows:
        cells = [cell(row, heading) for heading in headings]
        version = row.report.engine_version if row.report else ""
        grid.add(str(row.choice), version, *cells, _VERDICTS[row.status])
    return grid


def carried_grid(matrix: Matrix) -> Table:
    """The engine that a stream began on down, the engine that continued it across."""
    targets, rows = pairs(matrix)
    ranks = dict.fromkeys(targets, 1)
    for carried in matrix.carried:
        if carried.status != "passed":
            ranks[carried.target] = 0  # what went wrong is never left out

    grid = Table(
        Column("from"),
        *(Column(f"to {target}", rank=ranks[target]) for target in targets),
        title="Streams carried from one engine to another",
    )
    for source, streams in rows:
        cells = ["" if stream is None else _VERDICTS[stream.status] for stream in streams]
        grid.add(source, *cells)
    return grid


def reasons(matrix: Matrix) -> list[str]:
    """What went wrong, by engine and by carried stream, and the verdict as the last line."""
    rows = matrix.rows
    lines: list[str] = []
    for describe in (reason, place, precision_note):
        lines += _prefixed((str(row.choice), describe(row)) for row in rows)

    lines += _prefixed((f"{c.source} to {c.target}", reason(c)) for c in matrix.carried)
    return [*lines, *matrix.remarks, *matrix.grown, verdict(matrix)]


def _prefixed(lines: Iterable[tuple[str, str | None]]) -> Iterator[str]:
    """The lines that are not empty, each once, with their prefixes unless they begin with them."""
    prefixes: dict[str, list[str]] = {}
    for prefix, line in lines:
        if line:
            prefixes.setdefault(line, []).append(prefix)

    for line, alike in prefixes.items():
        names = ", ".join(alike)
        text = line if line.startswith(f"{names} ") else f"{names}: {line}"
        yield text


def summary(report: EngineReport) -> list[str]:
    """The verdict in one line, below lines on what could not be compared at all."""
    cases = {m.case for m in report.measurements}
    failed = {m.case for m in report.measurements if not m.passed}
    if report.passed:
        text = f"PASS: {len(cases)} cases"
    else:
        text = f"FAIL: {len(failed)} of {len(cases)} cases"

    text += f" on {report.engine}, up to {report.steps} chained steps{_worst_error(report)}."
    return [*_problems(report), text]


def _worst_error(report: EngineReport) -> str:
    """The worst error and the bound, for the end of a sentence; empty if nothing was compared."""
    ratios = []
    for m in report.measurements:
        if m.snr is not None:
            ratios.append(m.snr)

    if ratios:
        return (
            f"; the truth is {decibels(min(ratios))} above the error or more, "
            f"{report.bound} was wanted ({report.precision}, {report.truth} truth)"
        )

    shares = []
    for m in report.measurements:
        if m.share is not None:
            shares.append(m.share)

    if not shares:
        return ""

    worst = max(shares)
    amount = f"{worst:.0%} of" if worst < 10 else f"{worst:.1e} times"
    return f"; the worst error is {amount} what is allowed ({report.bound}, {report.truth} truth)"


def _problems(report: EngineReport) -> list[str]:
    """Why outputs could not be compared; of many problems, the first few."""
    problems = []
    for m in report.measurements:
        if m.problem:
            problems.append(f"{m.case}, {m.output}: {m.problem}")

    rest = len(problems) - _PROBLEMS_SHOWN
    if rest > 0:
        return [*problems[:_PROBLEMS_SHOWN], f"... and {rest} more like these."]
    return problems


def _worst_of_cases(measurements: Sequence[Measurement]) -> Iterator[Measurement]:
    """Of each case, the measurements that failed, or else the worst."""
    cases: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        cases.setdefault(measurement.case, []).append(measurement)

    for of_case in cases.values():
        failed = [m for m in of_case if not m.passed]
        if all(m.problem for m in of_case):
            yield replace(failed[0], output="all")
        elif failed:
            yield from failed
        else:
            yield max(of_case, key=lambda m: m.share or 0.0)
