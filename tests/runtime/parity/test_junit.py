"""The JUnit report, read by another reader and compared with the matrix."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from stateport.parity.engine_report import Measurement
from stateport.parity.matrix import EngineVerdict, Matrix
from stateport.parity.reports import write
from stateport.parity.reports.wording import sentence
from stateport.printable import printable


def suites(matrix: Matrix, tmp_path: Path) -> tuple[JUnitXml, list[TestSuite]]:
    path = tmp_path / "report.xml"
    write(matrix, path)
    root = JUnitXml.fromfile(str(path))
    return root, list(root)


def expected(row: EngineVerdict) -> Counter[type]:
    """How the test cases of an engine are to end."""
    if row.report is None:
        return Counter([Error if row.available else Skipped])
    return Counter(kind_of(one) for one in row.report.measurements)


def kind_of(one: Measurement) -> type:
    if one.problem is not None:
        return Error
    return TestCase if one.passed else Failure


def counted(part: JUnitXml | TestSuite) -> tuple[int, int, int, int]:
    return part.tests, part.failures, part.errors, part.skipped


def numbers(kinds: Counter[type]) -> tuple[int, int, int, int]:
    return kinds.total(), kinds[Failure], kinds[Error], kinds[Skipped]


def test_junit_has_a_case_for_each_engine_output_and_case(matrix: Matrix, tmp_path: Path) -> None:
    root, found = suites(matrix, tmp_path)
    wanted = {printable(str(row.choice)): expected(row) for row in matrix.rows}
    if matrix.carried:
        several = [m for carried in matrix.carried for m in carried.measurements]
        lost = [Error for carried in matrix.carried if carried.problem]
        wanted["carried"] = Counter([*map(kind_of, several), *lost])
    if matrix.grown:
        wanted["baseline"] = Counter([Failure])
    assert [suite.name for suite in found] == list(wanted)
    for suite in found:
        results = [case.result for case in suite]
        assert all(len(result) <= 1 for result in results)
        assert Counter(type(r[0]) if r else TestCase for r in results) == wanted[suite.name]
        assert counted(suite) == numbers(wanted[suite.name])
    assert counted(root) == numbers(sum(wanted.values(), Counter()))


def test_junit_names_each_case_once(matrix: Matrix, tmp_path: Path) -> None:
    _, found = suites(matrix, tmp_path)
    names = Counter((case.classname, case.name) for suite in found for case in suite)
    assert set(names.values()) == {1}


def test_junit_says_which_output_which_step_and_how_far(failing: Matrix, tmp_path: Path) -> None:
    _, found = suites(failing, tmp_path)
    report = failing.rows[0].report
    assert report is not None
    said = [result.message for case in found[0] for result in case.result]
    assert said == [sentence(m, report.bound) for m in report.measurements if not m.passed]
    assert all(re.search(r"(y|hn|cn) is \d\.\de-\d\d off at step \d+", text) for text in said)


def test_junit_says_where_it_goes_wrong_first(failing: Matrix, tmp_path: Path) -> None:
    _, found = suites(failing, tmp_path)
    for suite, where in zip(
        found, (str(failing.rows[0].located), "It was not found."), strict=False
    ):
        texts = [result.text for case in suite for result in case.result]
        assert texts
        assert all(text.endswith(f"\n{where}") for text in texts)


def test_junit_has_versions_and_environment(failing: Matrix, tmp_path: Path) -> None:
    _, found = suites(failing, tmp_path)
    report = failing.rows[0].report
    assert report is not None
    properties = {p.name: p.value for p in found[0].properties()}  # type: ignore[no-untyped-call]
    assert properties["engine_version"] == report.engine_version
    assert properties["environment.python"] == report.environment["python"]
    assert properties["made_with.torch"] == report.made_with["torch"]


def test_an_engine_that_is_required_and_not_here_is_an_error(
    passing: Matrix, tmp_path: Path
) -> None:
    skipping, _ = suites(passing, tmp_path)
    root, _ = suites(replace(passing, required=True), tmp_path)
    assert (skipping.errors, skipping.skipped) == (0, 1)
    assert (root.errors, root.skipped) == (1, 0)
