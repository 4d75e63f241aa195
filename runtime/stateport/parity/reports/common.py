# SPDX-License-Identifier: Apache-2.0
"""What reports share beyond their wording: groups of engines, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..engine_report import Measurement
from ..matrix import CarriedStream, EngineVerdict, Matrix
from .wording import place, precision_note, reason, sentence, worst_by_kind

#: A name, or several with commas between them, and lines on it.
_Entry = tuple[str, list[str]]


def explained(matrix: Matrix) -> str:
    """A text that explains the numbers of the matrix."""
    measurements: list[Measurement] = []
    for report in matrix.reports:
        measurements += report.measurements

    text = "A number is the worst error in the cases of a kind"
    if any(m.multiple is not None and m.snr is None for m in measurements):
        text += ", in multiples of the floor: what float32 itself loses"
    if any(m.snr is not None for m in measurements):
        text += ". With dB, it is how far the truth is above the error"
    return f"{text}."


def status(matrix: Matrix, row: EngineVerdict) -> str:
    """The status of a row; `required` if the engine did not run although it is required."""
    if row.status == "not run" and matrix.required:
        return "required"
    return row.status


def failed(matrix: Matrix) -> list[tuple[str, list[str]]]:
    """The engines and carried streams that failed, and why; those with equal reasons in one."""
    names: dict[tuple[str, ...], list[str]] = {}
    for name, lines in _failures(matrix):
        names.setdefault(tuple(lines), []).append(name)
    return [(", ".join(alike), list(lines)) for lines, alike in names.items()]


def _failures(matrix: Matrix) -> Iterator[_Entry]:
    for row in matrix.rows:
        if status(matrix, row) not in ("passed", "not run"):
            yield str(row.choice), _reasons(row)

    for carried in matrix.carried:
        why = reason(carried)
        if why is not None:
            yield f"{carried.source} to {carried.target}", [why]

    for line in matrix.grown:
        yield "since the baseline", [line]


def not_run(matrix: Matrix) -> list[tuple[str, list[str]]]:
    """The engines that are neither installed nor required, and what is missing."""
    entries = []
    for row in matrix.rows:
        if status(matrix, row) == "not run":
            entries.append((str(row.choice), _reasons(row)))
    return entries


def notes(matrix: Matrix) -> list[tuple[str, list[str]]]:
    """Notes on the files, and on engines that computed in another precision."""
    entries: list[_Entry] = []
    if matrix.remarks:
        entries.append(("the files", list(matrix.remarks)))

    for row in matrix.rows:
        note = precision_note(row)
        if note:
            entries.append((str(row.choice), [note]))
    return entries


def _reasons(row: EngineVerdict) -> list[str]:
    """The first fault, if it was located, and a sentence on each kind of cases that failed."""
    if row.report is None:
        return [row.problem or ""]

    lines = []
    first = place(row)
    if first is not None:
        lines.append(first)

    for measurement in worst_by_kind(row.report.measurements).values():
        if not measurement.passed:
            lines.append(sentence(measurement, row.report.bound))
    return lines


def pairs(matrix: Matrix) -> tuple[list[str], list[tuple[str, list[CarriedStream | None]]]]:
    """The carried streams as a table.

    Returns:
        The engines that continued, across, and a row for each engine that began: its name, and
        its stream on each engine across, None where there is none.
    """
    streams = {(carried.source, carried.target): carried for carried in matrix.carried}
    targets = list(dict.fromkeys(carried.target for carried in matrix.carried))
    sources = {carried.source for carried in matrix.carried}

    rows = []
    for source in dict.fromkeys(str(row.choice) for row in matrix.rows):
        if source in sources:
            rows.append((source, [streams.get((source, target)) for target in targets]))
    return targets, rows


def environments(matrix: Matrix) -> list[tuple[Sequence[str], dict[str, str]]]:
    """The environments of the measurements, each with the engines that ran in it."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for row in matrix.rows:
        if row.report is None:
            continue

        recorded = ", ".join(f"{name} {value}" for name, value in row.report.made_with.items())
        facts = {**row.report.environment, "answers recorded with": recorded}
        groups.setdefault(tuple(facts.items()), []).append(str(row.choice))
    return [(engines, dict(facts)) for facts, engines in groups.items()]
