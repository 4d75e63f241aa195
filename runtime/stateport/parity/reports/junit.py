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
from .common import status
from .wording import place, sentence

# What a test case may hold -> the count of it on the suites above.
_OUTCOMES: Final = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def render(matrix: Matrix) -> str:
    """The whole report as one XML document."""
    stem = Path(matrix.model).stem
    root = Element("testsuites", name=printable(f"stateport verify {matrix.model}"))
    for row in matrix.rows:
        _engine(_suite(root, str(row.choice)), matrix, row, f"{stem}.{row.choice}")
    if matrix.carried:
        suite = _suite(root, "carried")
        for carried in matrix.carried:
            _carried(suite, carried, f"{stem}.carried")
    if matrix.grown:
        suite = _suite(root, "baseline")
        for number, line in enumerate(matrix.grown, 1):
            _outcome(_case(suite, f"{stem}.baseline", f"growth {number}"), "failure", line)
    for element in (*root, root):
        _count(element)
    ElementTree.indent(root, " ")
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _engine(suite: Element, matrix: Matrix, row: EngineVerdict, classname: str) -> None:
    _properties(suite, {**_facts(row), **_remarks(matrix)})
    if row.report is not None:
        for one in row.report.measurements:
            case = _case(suite, classname, f"{one.case}: {one.output}")
            _judged(case, one, row.report.bound, place(row))
        return
    kind = "skipped" if status(matrix, row) == "not run" else "error"
    _outcome(_case(suite, classname, "all cases"), kind, row.problem or "")


def _carried(suite: Element, carried: CarriedStream, classname: str) -> None:
    way = f"{carried.source} to {carried.target}"
    for one in carried.measurements:
        _judged(_case(suite, classname, f"{way}, {one.case}: {one.output}"), one, "more")
    if carried.status == "error":
        _outcome(_case(suite, classname, way), "error", carried.problem or "Nothing was measured.")


def _remarks(matrix: Matrix) -> dict[str, str]:
    return {f"remark {number}": text for number, text in enumerate(matrix.remarks, 1)}


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
    for prefix, values in (("environment", report.environment), ("made_with", report.made_with)):
        facts.update({f"{prefix}.{name}": value for name, value in values.items()})
    return facts


def _judged(case: Element, one: Measurement, bound: str, first: str | None = None) -> None:
    if one.problem is not None:
        _outcome(case, "error", sentence(one, bound), first)
    elif not one.passed:
        _outcome(case, "failure", sentence(one, bound), first)


def _suite(root: Element, name: str) -> Element:
    return SubElement(root, "testsuite", name=printable(name))


def _properties(suite: Element, facts: Mapping[str, str]) -> None:
    properties = SubElement(suite, "properties")
    for name, value in facts.items():
        SubElement(properties, "property", name=printable(name), value=printable(value))


def _case(suite: Element, classname: str, name: str) -> Element:
    names = {"classname": printable(classname), "name": printable(name)}
    return SubElement(suite, "testcase", names)


def _outcome(case: Element, kind: str, message: str, more: str | None = None) -> None:
    # Jenkins shows the message in its list, and the text on a case's own page.
    outcome = SubElement(case, kind, message=printable(message), type=kind)
    outcome.text = "\n".join(printable(text) for text in (message, more) if text is not None)


def _count(suite: Element) -> None:
    cases = list(suite.iter("testcase"))
    kinds = [outcome.tag for case in cases for outcome in case]
    suite.set("tests", str(len(cases)))
    for kind, name in _OUTCOMES.items():
        suite.set(name, str(sum(found == kind for found in kinds)))
