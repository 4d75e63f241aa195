"""Errors that grew since an earlier report, within what is allowed or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..errors import FileError
from ..files.reading import read_json, value_of
from ..shown import shown
from .engine_report import Measurement
from .matrix import Matrix

#: An error may grow by this factor.
GROWTH: Final = 2.0

Errors = dict[tuple[str, str, str], float]


def read_baseline(path: Path) -> Errors:
    """The errors in an earlier JSON report, by engine, case and output.

    Raises:
        FileError: the file cannot be read, or is no such report.
    """
    try:
        return dict(_errors(read_json(path)))
    except ValueError as error:
        raise FileError(
            f"{path} is no report that --baseline reads ({error}); `stateport verify --report "
            "FILE.json` writes such, and the run has to pass."
        ) from error


def regressions(matrix: Matrix, baseline: Errors, factor: float = GROWTH) -> tuple[str, ...]:
    """For each engine, the output whose error grew the most, where one did by more than `factor`.

    An error below the floor counts as the floor: what PyTorch itself loses is no regression. What
    was measured on one side alone is told too, for the engines that both have.
    """
    lines: list[str] = []
    common = False
    for row in matrix.rows:
        engine = str(row.choice)
        before = {key[1:]: error for key, error in baseline.items() if key[0] == engine}
        if row.report is None or not before:
            continue
        common = True
        now = {(m.case, m.output): m for m in row.report.measurements}
        if now.keys() != before.keys():
            lines.append(
                f"{engine}: of {len(before)} measurements in the baseline, "
                f"{len(before.keys() & now.keys())} are among the {len(now)} that were made."
            )
        found = list(_growths(now, before, factor))
        if found:
            lines.append(_line(engine, *max(found, key=lambda f: f[0]), len(found)))
    if matrix.reports and not common:
        lines.append("The baseline has no engine in common with this run.")
    return tuple(lines)


def _growths(
    now: Mapping[tuple[str, str], Measurement],
    before: Mapping[tuple[str, str], float],
    factor: float,
) -> Iterator[tuple[float, float, Measurement]]:
    for key, one in now.items():
        if key in before and one.error is not None:
            least = max(before[key], one.floor or 0.0)
            if one.error > factor * least:
                yield one.error / least if least else float("inf"), before[key], one


def _line(engine: str, growth: float, before: float, one: Measurement, count: int) -> str:
    more = "" if count == 1 else f", and {count - 1} more grew"
    return (
        f"{engine}: the error of {one.output} in {one.case} grew {growth:.1f} times, from "
        f"{before:.1e} to {one.error:.1e}{more}."
    )


def _errors(document: Any) -> Iterator[tuple[tuple[str, str, str], float]]:
    version = value_of(document, "version", int)
    if version is True or version != 1:
        raise ValueError(f"version {version}")
    for engine in value_of(document, "engines", list):
        label = value_of(engine, "label", str)
        for entry in value_of(engine, "measurements", list):
            case, output = value_of(entry, "case", str), value_of(entry, "output", str)
            error = entry.get("error")
            if not isinstance(error, int | float) or not 0 <= error < float("inf"):
                raise ValueError(f"the error of {shown(output)} in {shown(case)} is {shown(error)}")
            yield (label, case, output), float(error)
