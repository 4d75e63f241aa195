"""Errors that grew since an earlier report, within what is allowed or not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..errors import FileError
from .matrix import Matrix
from .verify import Measurement

#: An error may grow by this factor.
GROWTH: Final = 2.0

Errors = dict[tuple[str, str, str], float]


def read_baseline(path: Path) -> Errors:
    """The errors in an earlier JSON report, by engine, case and output.

    Raises:
        FileError: the file cannot be read, or is no such report.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return dict(_errors(document))
    except OSError as error:
        raise FileError(f"{path} could not be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{path} is no report that --baseline reads; `stateport verify --report FILE.json` "
            "writes such."
        ) from error


def grown(matrix: Matrix, baseline: Errors, factor: float = GROWTH) -> tuple[str, ...]:
    """For each engine, the output whose error grew the most, where one did by more than `factor`.

    An error below the floor counts as the floor: what PyTorch itself loses is no regression.

    Raises:
        FileError: nothing in the baseline was measured again.
    """
    lines, common = [], False
    for row in matrix.rows:
        found = []
        for one in row.report.measurements if row.report else ():
            before = baseline.get((str(row.choice), one.case, one.output))
            if before is None or one.error is None:
                continue
            common = True
            least = max(before, one.floor or 0.0)
            if one.error > factor * least:
                found.append((one.error / least if least else float("inf"), before, one))
        if found:
            lines.append(_line(str(row.choice), *max(found, key=lambda f: f[0]), len(found)))
    if matrix.reports and not common:
        raise FileError("The baseline has no engine and case in common with this run.")
    return tuple(lines)


def _line(engine: str, growth: float, before: float, one: Measurement, count: int) -> str:
    more = "" if count == 1 else f", and {count - 1} more grew"
    return (
        f"{engine}: the error of {one.output} in {one.case} grew {growth:.1f} times, from "
        f"{before:.1e} to {one.error:.1e}{more}."
    )


def _errors(document: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str, str], float]]:
    if document["version"] != 1:
        raise ValueError(document["version"])
    for engine in document["engines"]:
        for one in engine["measurements"]:
            if one["error"] is not None:
                yield (engine["label"], one["case"], one["output"]), float(one["error"])
