"""An earlier report as a baseline: errors that grew are a failure, also within what is allowed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stateport import FileError
from stateport.engines.choice import EngineChoice
from stateport.parity.baseline import read_baseline, regressions
from stateport.parity.matrix import EngineVerdict, Matrix, run_matrix
from stateport.parity.reports import write
from stateport.parity.vectors import vectors_path


@pytest.fixture(scope="module")
def matrix(reference: Path) -> Matrix:
    return run_matrix(reference, vectors_path(reference), [EngineChoice("ort-cpu")])


def worse(matrix: Matrix, factor: float) -> Matrix:
    """The same with the errors of one output larger."""
    (row,) = matrix.rows
    assert row.report is not None
    measurements = tuple(
        replace(m, error=max(m.error or 0.0, m.floor or 0.0) * factor) if m.output == "hn" else m
        for m in row.report.measurements
    )
    return replace(
        matrix, rows=(EngineVerdict(row.choice, replace(row.report, measurements=measurements)),)
    )


def test_the_same_errors_have_not_grown(matrix: Matrix, tmp_path: Path) -> None:
    write(matrix, tmp_path / "old.json")
    before = read_baseline(tmp_path / "old.json")
    assert regressions(matrix, before) == ()
    assert regressions(worse(matrix, 1.9), before) == ()


def test_errors_that_grew_are_told_though_they_are_allowed(matrix: Matrix, tmp_path: Path) -> None:
    write(matrix, tmp_path / "old.json")
    before = read_baseline(tmp_path / "old.json")
    now = worse(matrix, 2.5)
    assert now.passed
    (line,) = regressions(now, before)
    assert line.startswith("ort-cpu: the error of hn in ")
    assert "grew 2.5 times" in line
    assert "more grew" in line
    assert regressions(now, before, factor=3.0) == ()
    assert not replace(now, grown=(line,)).passed


def test_less_than_the_floor_is_no_regression(matrix: Matrix, tmp_path: Path) -> None:
    (row,) = matrix.rows
    assert row.report is not None
    tiny = tuple(replace(m, error=1e-12) for m in row.report.measurements)
    old = replace(matrix, rows=(EngineVerdict(row.choice, replace(row.report, measurements=tiny)),))
    write(old, tmp_path / "old.json")
    assert regressions(matrix, read_baseline(tmp_path / "old.json")) == ()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"version": 2, "engines": []}', '{"version": 1}', "\xff"]
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "old.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FileError, match=r"old\.json is no report that --baseline reads"):
        read_baseline(path)
    with pytest.raises(FileError, match="could not be read"):
        read_baseline(tmp_path / "none.json")


def test_a_baseline_of_something_else_is_refused(matrix: Matrix, tmp_path: Path) -> None:
    write(matrix, tmp_path / "old.json")
    document = json.loads((tmp_path / "old.json").read_text())
    document["engines"][0]["label"] = "abacus"
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert regressions(matrix, read_baseline(tmp_path / "old.json")) == (
        "The baseline has no engine in common with this run.",
    )


def test_what_only_one_side_measured_is_told(matrix: Matrix, tmp_path: Path) -> None:
    write(matrix, tmp_path / "old.json")
    document = json.loads((tmp_path / "old.json").read_text())
    del document["engines"][0]["measurements"][1:]
    (tmp_path / "old.json").write_text(json.dumps(document))
    (line,) = regressions(matrix, read_baseline(tmp_path / "old.json"))
    assert line == "ort-cpu: of 1 measurements in the baseline, 1 are among the 60 that were made."


@pytest.mark.parametrize("error", ["inf", "nan", None])
def test_a_baseline_of_a_run_that_failed_is_refused(
    matrix: Matrix, tmp_path: Path, error: str | None
) -> None:
    write(matrix, tmp_path / "old.json")
    document = json.loads((tmp_path / "old.json").read_text())
    document["engines"][0]["measurements"][3]["error"] = error
    (tmp_path / "old.json").write_text(json.dumps(document))
    with pytest.raises(FileError, match="the run has to pass"):
        read_baseline(tmp_path / "old.json")
