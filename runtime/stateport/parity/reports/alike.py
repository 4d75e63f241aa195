# SPDX-License-Identifier: Apache-2.0
"""Whether all engines fail alike, which says that the file or its vectors are at fault."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from ..engine_report import EngineReport, Measurement
from ..matrix import Matrix, rows_that_ran

#: Errors of at least this share of their bound are compared; smaller ones are near the bound,
#: where one engine fails and another one does not.
_CLEAR: Final = 2.0
#: By what factor the errors of two engines may differ if both have one reason.
_ALIKE: Final = 1.25

#: By case and output.
_Measurements = Mapping[tuple[str, str], Measurement]


def common_fault(matrix: Matrix) -> str | None:
    """A sentence that the file is at fault; None if an engine may be.

    Two engines at least have to fail, and none may pass. Where they were measured, they have to be
    off in the same places and by as much: engines do not make the same error by chance.
    """
    ran = rows_that_ran(matrix)
    statuses = {row.status for row in ran}
    if len(ran) < 2 or "passed" in statuses:
        return None
    if statuses == {"error"}:
        return _no_engine_runs(len(ran))

    measured = [*map(_by_place, matrix.reports)]
    if _are_alike(measured):
        return _same_answers(len(measured))
    return None


def _no_engine_runs(count: int) -> str:
    none = "Neither" if count == 2 else "None"
    return (
        f"{none} of the {count} engines runs the file, so the file is probably at fault, rather "
        "than an engine. Look at their reasons, or export the model again."
    )


def _same_answers(count: int) -> str:
    engines = "Both" if count == 2 else f"All {count}"
    return (
        f"{engines} engines that were measured give the same wrong answers, so the file or its "
        "vectors are at fault, rather than an engine. Export the model again, or find the first "
        "node that is off: stateport verify --locate."
    )


def _by_place(report: EngineReport) -> _Measurements:
    """The measurements of an engine, by case and output."""
    return {(m.case, m.output): m for m in report.measurements}


def _are_alike(engines: Sequence[_Measurements]) -> bool:
    """Whether engines that fail, at least two, are off by as much where one is clearly off."""
    first, *others = engines
    if not others:
        return False
    if any(other.keys() != first.keys() for other in others):
        return False

    places = [place for place in first if any(_is_clearly_off(engine[place]) for engine in engines)]
    if not places:  # all of them are near the bound
        return False
    return all(_are_one(first[place], other[place]) for other in others for place in places)


def _is_clearly_off(measurement: Measurement) -> bool:
    share = measurement.share
    return share is None or not share < _CLEAR  # NaN is off, too


def _are_one(one: Measurement, other: Measurement) -> bool:
    """Whether two engines make the same error in an output of a case."""
    if one.problem is not None or other.problem is not None:
        return one.problem == other.problem
    if one.error is None or other.error is None:
        return one.error is other.error

    if not (math.isfinite(one.error) and math.isfinite(other.error)):
        return math.isfinite(one.error) == math.isfinite(other.error)
    smaller, larger = sorted([one.error, other.error])
    return larger <= _ALIKE * smaller
