# SPDX-License-Identifier: Apache-2.0
"""Errors that grew since an earlier report by more than a factor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..errors import FileError
from ..files.reading import read_json, value_of
from ..shown import shown
from .engine_report import Measurement
from .matrix import Matrix

#: An error may grow by this factor.
GROWTH: Final = 2.0

#: By engine, case and output, the error.
Errors = dict[tuple[str, str, str], float]


class _Growth(NamedTuple):
    """A measurement whose error is `factor` times what it was before."""

    factor: float
    before: float
    measurement: Measurement


def read_baseline(path: Path) -> Errors:
    """The errors in an earlier JSON report, by engine, case and output.

    Raises:
        FileError: the file cannot be read, or is no such report.
    """
    try:
        return dict(_read_errors(read_json(path)))
    except ValueError as error:
        raise FileError(
            f"{path} is no report that --baseline reads ({error}); `stateport verify --report "
            "FILE.json` writes such, and the run has to pass."
        ) from error


def regressions(matrix: Matrix, baseline: Errors, factor: float = GROWTH) -> tuple[str, ...]:
    """For each engine, a line on the output whose error grew the most, if by more than `factor`.

    An error below the floor counts as the floor: what PyTorch itself loses is no regression.
    Further lines name the engines whose measurements are not those of the baseline.
    """
    lines: list[str] = []
    comparable = False
    for row in matrix.rows:
        engine = str(row.choice)
        before = _errors_of(engine, baseline)
        if row.report is None or not before:
            continue

        comparable = True
        now = {(m.case, m.output): m for m in row.report.measurements}
        lines += _compare_engine(engine, now, before, factor)

    if matrix.reports and not comparable:
        lines.append("The baseline has no engine in common with this run.")
    return tuple(lines)


def _errors_of(engine: str, baseline: Errors) -> dict[tuple[str, str], float]:
    """The baseline's errors on one engine, by case and output."""
    errors = {}
    for (label, case, output), error in baseline.items():
        if label == engine:
            errors[case, output] = error
    return errors


def _compare_engine(
    engine: str,
    now: Mapping[tuple[str, str], Measurement],
    before: Mapping[tuple[str, str], float],
    factor: float,
) -> Iterator[str]:
    if now.keys() != before.keys():
        common = len(before.keys() & now.keys())
        yield (
            f"{engine}: of {len(before)} measurements in the baseline, "
            f"{common} are among the {len(now)} that were made."
        )

    growths = list(_growths(now, before, factor))
    if growths:
        worst = max(growths, key=lambda growth: growth.factor)
        yield _describe_growth(engine, worst, len(growths))


def _growths(
    now: Mapping[tuple[str, str], Measurement],
    before: Mapping[tuple[str, str], float],
    factor: float,
) -> Iterator[_Growth]:
    for key, measurement in now.items():
        if key not in before or measurement.error is None:
            continue

        least = max(before[key], measurement.floor or 0.0)
        if measurement.error > factor * least:
            growth = measurement.error / least if least else float("inf")
            yield _Growth(growth, before[key], measurement)


def _describe_growth(engine: str, growth: _Growth, count: int) -> str:
    """A sentence on the worst of `count` growths."""
    measurement = growth.measurement
    more = "" if count == 1 else f", and {count - 1} more grew"
    return (
        f"{engine}: the error of {measurement.output} in {measurement.case} grew "
        f"{growth.factor:.1f} times, from {growth.before:.1e} to {measurement.error:.1e}{more}."
    )


def _read_errors(document: Any) -> Iterator[tuple[tuple[str, str, str], float]]:
    version = value_of(document, "version", int)
    if version is True or version != 1:
        raise ValueError(f"version {version}")

    for engine in value_of(document, "engines", list):
        label = value_of(engine, "label", str)
        for entry in value_of(engine, "measurements", list):
            case = value_of(entry, "case", str)
            output = value_of(entry, "output", str)
            error = entry.get("error")
            if not _is_error(error):
                raise ValueError(f"the error of {shown(output)} in {shown(case)} is {shown(error)}")
            yield (label, case, output), float(error)


def _is_error(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < float("inf")
