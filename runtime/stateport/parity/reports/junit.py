# SPDX-License-Identifier: Apache-2.0
"""The report as JUnit XML: a suite per engine, a test case per case and output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from ...printable import printable
from ..engine_report import Measurement
from ..matrix import CarriedStream, EngineVerdict, Matrix
from .alike import common_fault
from .common import status
from .wording import place, sentence

# The element that a test case may hold -> the attribute with its count on the suites above.
_OUTCOMES: Final = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def render(matrix: Matrix) -> str:
    """The whole report as one XML document."""
    stem = Path(matrix.model).stem
    root = Element("testsuites", name=printable(f"stateport verify {matrix.model}"))
    for row in matrix.rows:
        suite = _add_suite(root, str(row.choice))
        _add_properties(suite, {**_facts(row), **_remarks(matrix)})
        _fill_engine_suite(suite, matrix, row, f"{stem}.{row.choice}")

    if matrix.carried:
        suite = _add_suite(root, "carried")
        for carried in matrix.carried:
            _add_carried_stream(suite, carried, f"{stem}.carried")

    if matrix.grown:
        suite = _add_suite(root, "baseline")
        for number, line in enumerate(matrix.grown, 1):
            case = _add_case(suite, f"{stem}.baseline", f"growth {number}")
            _add_outcome(case, "failure", line)

    for element in (*root, root):
        _count_outcomes(element)

    ElementTree.indent(root, " ")
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _fill_engine_suite(suite: Element, matrix: Matrix, row: EngineVerdict, classname: str) -> None:
    report = row.report
    if report is None:
        kind = "skipped" if status(matrix, row) == "not run" else "error"
        _add_outcome(_add_case(suite, classname, "all cases"), kind, row.problem or "")
        return

    for measurement in report.measurements:
        case = _add_case(suite, classname, f"{measurement.case}: {measurement.output}")
        _add_verdict(case, measurement, report.bound, place(row))


def _add_carried_stream(suite: Element, carried: CarriedStream, classname: str) -> None:
    engines = f"{carried.source} to {carried.target}"
    for measurement in carried.measurements:
        name = f"{engines}, {measurement.case}: {measurement.output}"
        _add_verdict(_add_case(suite, classname, name), measurement, "more")

    if carried.status == "error":
        problem = carried.problem or "Nothing was measured."
        _add_outcome(_add_case(suite, classname, engines), "error", problem)


def _remarks(matrix: Matrix) -> dict[str, str]:
    """The notes on the file, and above all that it is at fault."""
    remarks = {f"remark {number}": text for number, text in enumerate(matrix.remarks, 1)}
    fault = common_fault(matrix)
    if fault is None:
        return remarks
    return {"common fault": fault, **remarks}


def _facts(row: EngineVerdict) -> dict[str, str]:
    """Versions, the bound and the environment."""
    facts = {"engine": str(row.choice)}
    if row.choice.python is not None:
        facts["interpreter"] = row.choice.python

    report = row.report
    if report is None:
        return facts

    for name in ("engine_version", "precision", "truth", "bound", "steps"):
        facts[name] = str(getattr(report, name))

    for name, value in report.environment.items():
        facts[f"environment.{name}"] = value

    for name, value in report.made_with.items():
        facts[f"made_with.{name}"] = value
    return facts


def _add_verdict(
    case: Element, measurement: Measurement, bound: str, first_fault: str | None = None
) -> None:
    """Adds why a measurement did not pass; nothing if it passed."""
    if measurement.problem is not None:
        _add_outcome(case, "error", sentence(measurement, bound), first_fault)
    elif not measurement.passed:
        _add_outcome(case, "failure", sentence(measurement, bound), first_fault)


def _add_suite(root: Element, name: str) -> Element:
    return SubElement(root, "testsuite", name=printable(name))


def _add_properties(suite: Element, facts: Mapping[str, str]) -> None:
    properties = SubElement(suite, "properties")
    for name, value in facts.items():
        SubElement(properties, "property", name=printable(name), value=printable(value))


def _add_case(suite: Element, classname: str, name: str) -> Element:
    names = {"classname": printable(classname), "name": printable(name)}
    return SubElement(suite, "testcase", names)


def _add_outcome(case: Element, kind: str, message: str, more: str | None = None) -> None:
    # Jenkins shows the message in its list, and the text on a case's own page.
    outcome = SubElement(case, kind, message=printable(message), type=kind)
    lines = [message] if more is None else [message, more]
    outcome.text = "\n".join(map(printable, lines))


def _count_outcomes(suite: Element) -> None:
    """Sets the counts of test cases and outcomes on a suite, or on the root."""
    cases = list(suite.iter("testcase"))
    outcomes = [outcome.tag for case in cases for outcome in case]

    suite.set("tests", str(len(cases)))
    for kind, name in _OUTCOMES.items():
        suite.set(name, str(outcomes.count(kind)))
