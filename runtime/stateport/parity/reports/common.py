"""What reports share beyond their wording."""

from __future__ import annotations

from collections.abc import Sequence

from ..matrix import CarriedStream, EngineVerdict, Matrix
from .wording import place, precision_note, reason, sentence, worst_by_kind


def explained(matrix: Matrix) -> str:
    """What the numbers of the matrix are."""
    found = [one for report in matrix.reports for one in report.measurements]
    said = "A number is the worst error in the cases of a kind"
    if any(one.multiple is not None and one.snr is None for one in found):
        said += ", in multiples of the floor: what PyTorch itself loses in float32"
    if any(one.snr is not None for one in found):
        said += ". With dB, it is how far the truth is above the error"
    return f"{said}."


def status(matrix: Matrix, row: EngineVerdict) -> str:
    """That of the row, or `required` of an engine that had to be here and is not."""
    return "required" if row.status == "not run" and matrix.required else row.status


def failed(matrix: Matrix) -> list[tuple[str, list[str]]]:
    """The engines and carried streams that went wrong, and why; those with equal reasons as one."""
    rows = [row for row in matrix.rows if status(matrix, row) not in ("passed", "not run")]
    whys = [(str(row.choice), _reasons(row)) for row in rows]
    for carried in matrix.carried:
        if (why := reason(carried)) is not None:
            whys.append((f"{carried.source} to {carried.target}", [why]))
    whys += [("since the baseline", [line]) for line in matrix.grown]
    names: dict[tuple[str, ...], list[str]] = {}
    for name, lines in whys:
        names.setdefault(tuple(lines), []).append(name)
    return [(", ".join(alike), list(lines)) for lines, alike in names.items()]


def not_run(matrix: Matrix) -> list[tuple[str, list[str]]]:
    """The engines that are not here and need not be, and what is missing."""
    rows = [row for row in matrix.rows if status(matrix, row) == "not run"]
    return [(str(row.choice), _reasons(row)) for row in rows]


def notes(matrix: Matrix) -> list[tuple[str, list[str]]]:
    """What has to be known of the files, and of engines that computed in another precision."""
    rows = [(str(row.choice), [note]) for row in matrix.rows if (note := precision_note(row))]
    return [("the files", list(matrix.remarks)), *rows] if matrix.remarks else rows


def _reasons(row: EngineVerdict) -> list[str]:
    """Where it goes wrong first, and a sentence on each kind of cases that failed."""
    if row.report is None:
        return [row.problem or ""]
    first = place(row)
    worst = worst_by_kind(row.report.measurements).values()
    said = [sentence(one, row.report.bound) for one in worst if not one.passed]
    return said if first is None else [first, *said]


def pairs(matrix: Matrix) -> tuple[list[str], list[tuple[str, list[CarriedStream | None]]]]:
    """The carried streams as a table: the engines gone on with across, those begun on down."""
    targets = list(dict.fromkeys(carried.target for carried in matrix.carried))
    sources = {carried.source for carried in matrix.carried}
    found = {(carried.source, carried.target): carried for carried in matrix.carried}
    ordered = dict.fromkeys(str(row.choice) for row in matrix.rows)
    down = [source for source in ordered if source in sources]
    return targets, [(s, [found.get((s, target)) for target in targets]) for s in down]


def environments(matrix: Matrix) -> list[tuple[Sequence[str], dict[str, str]]]:
    """Where the measurements were made, and the engines that each place is that of."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for row in matrix.rows:
        if row.report is not None:
            recorded = ", ".join(f"{name} {value}" for name, value in row.report.made_with.items())
            facts = {**row.report.environment, "answers recorded with": recorded}
            groups.setdefault(tuple(facts.items()), []).append(str(row.choice))
    return [(engines, dict(facts)) for facts, engines in groups.items()]
