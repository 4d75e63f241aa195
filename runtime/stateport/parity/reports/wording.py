"""What all reports say alike: numbers, kinds of cases, and how far an output is off."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..engine_report import EngineReport, Measurement
from ..matrix import CarriedStream, EngineVerdict, Matrix


def number(value: float | None) -> str:
    """`1.3e-07`."""
    return "" if value is None else f"{value:.1e}"


def decibels(value: float | None) -> str:
    """`51.0 dB`."""
    return "" if value is None else f"{value:.1f} dB"


def multiple(value: float | None) -> str:
    """`0.9`, of the floor."""
    return "" if value is None else f"{value:.1f}" if value < 1000 else f"{value:.0e}"


def kind(case: str) -> str:
    """`whole 1x7, from zeros` -> `whole`: a case's name without its sizes and its first state."""
    return re.split(r",| \d", case)[0]


def kinds(matrix: Matrix) -> list[str]:
    """The kinds of the cases that were run, in their order."""
    cases = (m.case for report in matrix.reports for m in report.measurements)
    return list(dict.fromkeys(map(kind, cases)))


def worst_of(measurements: Iterable[Measurement]) -> Measurement:
    """The one that could not be measured, or else has the largest share of what is allowed."""
    return max(measurements, key=_badness)


def cell(row: EngineVerdict, heading: str) -> str:
    """The worst error of an engine in cases of a kind: multiples of the floor, or decibels."""
    one = worst_by_kind(row.report.measurements if row.report else ()).get(heading)
    return "" if one is None else score(one)


def worst_by_kind(measurements: Iterable[Measurement]) -> dict[str, Measurement]:
    """The worst measurement among the cases of each kind."""
    groups: dict[str, list[Measurement]] = {}
    for one in measurements:
        groups.setdefault(kind(one.case), []).append(one)
    return {heading: worst_of(group) for heading, group in groups.items()}


def score(one: Measurement) -> str:
    """How far an output is off, in a few signs."""
    if one.problem is not None:
        return "problem"
    if one.snr is not None:
        return decibels(one.snr)
    return multiple(one.multiple) if one.multiple is not None else number(one.error)


def sentence(one: Measurement, bound: str) -> str:
    """Which output is off, at which step, and how far."""
    if one.problem is not None:
        return f"{one.case}, {one.output}: {one.problem.rstrip('.')}."
    if one.snr is not None:
        return (
            f"{one.case}: the truth of {one.output} is {decibels(one.snr)} above the error at "
            f"step {one.step}, {bound} was wanted."
        )
    first = "" if one.first_off in (None, one.step) else f" (off since step {one.first_off})"
    floor = "" if one.floor is None else f", where PyTorch itself loses {number(one.floor)}"
    return f"{one.case}: {one.output} is {number(one.error)} off at step {one.step}{first}{floor}."


def worst(report: EngineReport) -> str:
    """The worst of a failed report in one sentence."""
    return sentence(worst_of(report.measurements), report.bound)


def reason(part: EngineVerdict | CarriedStream) -> str | None:
    """Why an engine or a carried stream did not pass."""
    if part.problem is not None or part.status == "passed":
        return part.problem
    bound = "more"
    if isinstance(part, CarriedStream):
        measurements = part.measurements
    else:
        assert part.report is not None
        measurements, bound = part.report.measurements, part.report.bound
    return sentence(worst_of(measurements), bound) if measurements else "Nothing was measured."


def place(row: EngineVerdict) -> str | None:
    """Where an engine or a file goes wrong first, where that was looked for."""
    return str(row.located) if row.located is not None else row.not_located


def precision_note(row: EngineVerdict) -> str | None:
    """Says that an engine computed in float32 although a lower precision was asked for."""
    asked = row.choice.options.get("precision", "float32")
    if row.report is None or row.report.precision != "float32" or asked in ("float32", "f32"):
        return None
    return f"This processor has no {asked}. The engine computed in float32 and was judged as that."


def verdict(matrix: Matrix) -> str:
    """The verdict in one line."""
    ran = [row for row in matrix.rows if row.status != "not run"]
    fine = sum(row.status == "passed" for row in ran)
    said = f"{'PASS' if matrix.passed else 'FAIL'}: {fine} of {len(ran)} engines pass"
    if matrix.carried:
        whole = sum(carried.status == "passed" for carried in matrix.carried)
        said += f", and {whole} of {len(matrix.carried)} streams carried between them"
    if matrix.grown:
        said += "; errors grew since the baseline"
    if matrix.missing:
        said += "; required, and not installed: " if matrix.required else "; not installed: "
        said += ", ".join(matrix.missing)
    return f"{said}."


def _badness(one: Measurement) -> float:
    if one.problem is not None or one.share is None or one.share != one.share:  # NaN
        return float("inf")
    return one.share
