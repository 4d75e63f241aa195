# SPDX-License-Identifier: Apache-2.0
"""The wording that all reports share: numbers, kinds of cases, and sentences on errors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ...picking import map_values
from ..engine_report import EngineReport, Measurement
from ..matrix import CarriedStream, EngineVerdict, Matrix, rows_that_ran


def number(value: float | None) -> str:
    """`1.3e-07`; empty for None."""
    return "" if value is None else f"{value:.1e}"


def decibels(value: float | None) -> str:
    """`51.0 dB`; empty for None."""
    return "" if value is None else f"{value:.1f} dB"


def multiple(value: float | None) -> str:
    """`0.9`, as a multiple of the floor; empty for None."""
    if value is None:
        return ""
    return f"{value:.1f}" if value < 1000 else f"{value:.0e}"


def kind(case: str) -> str:
    """`whole 1x7, from zeros` -> `whole`: a case's name without its sizes and its first state."""
    return re.split(r",| \d", case)[0]


def kinds(matrix: Matrix) -> list[str]:
    """The kinds of the cases that were run, in their order."""
    cases = (m.case for report in matrix.reports for m in report.measurements)
    return list(dict.fromkeys(map(kind, cases)))


def worst_of(measurements: Iterable[Measurement]) -> Measurement:
    """The measurement that failed to be made, or else has the largest share of its bound."""
    return max(measurements, key=_badness)


def cell(row: EngineVerdict, heading: str) -> str:
    """The worst error of an engine in cases of a kind: a multiple of the floor, or decibels."""
    measurements = row.report.measurements if row.report else ()
    worst = worst_by_kind(measurements).get(heading)
    return "" if worst is None else score(worst)


def worst_by_kind(measurements: Iterable[Measurement]) -> dict[str, Measurement]:
    """The worst measurement among the cases of each kind."""
    groups: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(kind(measurement.case), []).append(measurement)
    return map_values(worst_of, groups)


def score(measurement: Measurement) -> str:
    """The error of an output in a few characters."""
    if measurement.problem is not None:
        return "problem"
    if measurement.snr is not None:
        return decibels(measurement.snr)
    if measurement.multiple is not None:
        return multiple(measurement.multiple)
    return number(measurement.error)


def outcome(part: Measurement | EngineReport) -> str:
    """Whether a measurement, or all of an engine's, passed, as the word for `_VERDICTS`."""
    return "passed" if part.passed else "failed"


def sentence(measurement: Measurement, bound: str) -> str:
    """A sentence on which output is off, at which step, and how far."""
    case = measurement.case
    output = measurement.output
    step = measurement.step
    if measurement.problem is not None:
        return f"{case}, {output}: {measurement.problem.rstrip('.')}."

    if measurement.snr is not None:
        return (
            f"{case}: the truth of {output} is {decibels(measurement.snr)} above the error at "
            f"step {step}, {bound} was wanted."
        )

    first = floor = ""
    if measurement.first_off not in (None, step):
        first = f" (off since step {measurement.first_off})"
    if measurement.floor:
        floor = f", where float32 itself loses {number(measurement.floor)}"
    return f"{case}: {output} is {number(measurement.error)} off at step {step}{first}{floor}."


def worst(report: EngineReport) -> str:
    """A sentence on the worst measurement of a failed report."""
    return sentence(worst_of(report.measurements), report.bound)


def reason(part: EngineVerdict | CarriedStream) -> str | None:
    """Why an engine or a carried stream did not pass; None if it passed."""
    if part.problem is not None or part.status == "passed":
        return part.problem

    bound = "more"
    if isinstance(part, CarriedStream):
        measurements = part.measurements
    else:
        assert part.report is not None
        measurements = part.report.measurements
        bound = part.report.bound
    if measurements:
        return sentence(worst_of(measurements), bound)
    return "Nothing was measured."


def place(row: EngineVerdict) -> str | None:
    """The first fault of an engine or a file, or why none was located; None if not asked for."""
    return str(row.located) if row.located is not None else row.not_located


def precision_note(row: EngineVerdict) -> str | None:
    """A note if an engine computed in float32 although a lower precision was asked for."""
    asked = row.choice.options.get("precision", "float32")
    asked_for_lower = asked not in ("float32", "f32")
    if not asked_for_lower or row.report is None or row.report.precision != "float32":
        return None
    return f"This processor has no {asked}. The engine computed in float32 and was judged as that."


def verdict(matrix: Matrix) -> str:
    """The verdict in one line."""
    ran = rows_that_ran(matrix)
    passed = sum(row.status == "passed" for row in ran)
    text = f"{'PASS' if matrix.passed else 'FAIL'}: {passed} of {len(ran)} engines pass"

    if matrix.carried:
        carried = sum(stream.status == "passed" for stream in matrix.carried)
        text += f", and {carried} of {len(matrix.carried)} streams carried between them"

    if matrix.grown:
        text += "; errors grew since the baseline"

    if matrix.missing:
        required = "required, and " if matrix.required else ""
        text += f"; {required}not available here: {', '.join(matrix.missing)}"
    return f"{text}."


def _badness(measurement: Measurement) -> float:
    share = measurement.share
    if measurement.problem is not None or share is None or math.isnan(share):
        return float("inf")
    return share
