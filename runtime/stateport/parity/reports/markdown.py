# SPDX-License-Identifier: Apache-2.0
"""The report as Markdown, for a pull request or the summary of a build."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from ...printable import printable
from ..engine_report import Measurement
from ..matrix import CarriedStream, EngineVerdict, Matrix
from .alike import common_fault
from .common import environments, explained, failed, not_run, notes, pairs, status
from .wording import kinds, score, verdict, worst_by_kind, worst_of

_VERDICTS: Final = {
    "passed": "pass",
    "failed": "**FAIL**",
    "error": "**ERROR**",
    "required": "**not run**",
}
# Characters with a meaning: those of HTML; those that turn an address into a link, or a name into
# a mention; and at the beginning, those of a heading, a list or a rule.
_MEANINGFUL: Final = re.compile(r"[&<>@]|(?<=:)/(?=/)|(?<=www)\.|^[#+=-]|^\d+[.)]")


def render(matrix: Matrix) -> str:
    """The whole report."""
    parts = [f"## {_text(verdict(matrix))}"]
    fault = common_fault(matrix)
    if fault is not None:
        parts.append(f"**{_text(fault)}**")

    parts += [f"Model: {_text(matrix.model)}", _matrix(matrix), explained(matrix)]
    if matrix.carried:
        parts += ["### Streams carried from one engine to another", _carried(matrix)]

    parts += _section("What failed", failed(matrix))
    parts += _section("Not run", not_run(matrix))
    parts += _section("Notes", notes(matrix))
    parts += _environment(matrix)

    return "\n\n".join(parts) + "\n"


def _matrix(matrix: Matrix) -> str:
    headings = kinds(matrix)
    marks = ["---", "---", *("---:" for _ in headings), "---", "---"]
    titles = ["engine", "version", *map(_text, headings), "allowed", "verdict"]
    return _table(titles, marks, [_engine(matrix, row, headings) for row in matrix.rows])


def _engine(matrix: Matrix, row: EngineVerdict, headings: Sequence[str]) -> list[str]:
    engine = _text(str(row.choice))
    shown_verdict = _VERDICTS.get(status(matrix, row), row.status)
    report = row.report
    if report is None:
        return [engine, "", *[""] * len(headings), "", shown_verdict]

    worst = worst_by_kind(report.measurements)
    scores = [_score(worst.get(heading)) for heading in headings]
    return [engine, _text(report.engine_version), *scores, _text(report.bound), shown_verdict]


def _score(measurement: Measurement | None) -> str:
    """The score, bold if it did not pass."""
    if measurement is None:
        return ""
    text = score(measurement)
    return text if measurement.passed else f"**{text}**"


def _carried(matrix: Matrix) -> str:
    targets, lines = pairs(matrix)
    titles = ["from", *(f"to {_text(target)}" for target in targets)]
    cells = [[_text(source), *map(_pair, carried)] for source, carried in lines]
    return _table(titles, ["---" for _ in titles], cells)


def _pair(carried: CarriedStream | None) -> str:
    if carried is None:
        return ""

    shown_verdict = _VERDICTS[carried.status]
    if not carried.measurements:
        return shown_verdict
    return f"{shown_verdict} {score(worst_of(carried.measurements))}"


def _section(title: str, parts: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    if not parts:
        return []

    lines = []
    for name, reasons in parts:
        if len(reasons) == 1:
            lines.append(f"- {_text(name)}: {_text(reasons[0])}")
        else:
            lines.append(f"- {_text(name)}:")
            lines += [f"  - {_text(line)}" for line in reasons]
    return [f"### {title}", "\n".join(lines)]


def _environment(matrix: Matrix) -> list[str]:
    groups = environments(matrix)
    if not groups:
        return []

    lines = []
    for engines, facts in groups:
        lines.append(["measured on", _text(", ".join(engines))])
        for name, value in facts.items():
            lines.append([_text(name), _text(value)])

    table = _table(["environment", ""], ["---", "---"], lines)
    return ["<details><summary>Environment</summary>", table, "</details>"]


def _table(titles: Iterable[str], marks: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, marks, *lines))


def _text(text: str) -> str:
    """The text on one line, escaped: nothing in it is Markdown, HTML or the end of a cell."""
    line = " ".join(printable(text).split())
    escaped = _MEANINGFUL.sub(_escape_last, line)
    return re.sub(r"[\\`*_\[\]|~$]", r"\\\g<0>", escaped)


def _escape_last(match: re.Match[str]) -> str:
    """The match with its last character as an HTML entity."""
    return f"{match[0][:-1]}&#{ord(match[0][-1])};"
