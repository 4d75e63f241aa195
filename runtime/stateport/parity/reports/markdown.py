"""The report as Markdown, for a pull request or the summary of a build."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from ...printable import printable
from ..matrix import CarriedStream, EngineVerdict, Matrix
from .common import environments, explained, failed, not_run, notes, pairs, status
from .wording import kinds, score, verdict, worst_by_kind, worst_of

_VERDICTS: Final = {
    "passed": "pass",
    "failed": "**FAIL**",
    "error": "**ERROR**",
    "required": "**not run**",
}
# HTML; what makes a link of an address, or a person of a name; and at the beginning, what makes a
# heading, a list or a line of a text.
_MEANT: Final = re.compile(r"[&<>@]|(?<=:)/(?=/)|(?<=www)\.|^[#+=-]|^\d+[.)]")


def render(matrix: Matrix) -> str:
    """The whole report."""
    parts = [
        f"## {_text(verdict(matrix))}",
        f"Model: {_text(matrix.model)}",
        _matrix(matrix),
        explained(matrix),
    ]
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
    said = _VERDICTS.get(status(matrix, row), row.status)
    report = row.report
    if report is None:
        return [_text(str(row.choice)), "", *("" for _ in headings), "", said]
    worst = worst_by_kind(report.measurements)
    scores = [_bold(score(worst[h]), worst[h].passed) if h in worst else "" for h in headings]
    engine, version, bound = map(_text, (str(row.choice), report.engine_version, report.bound))
    return [engine, version, *scores, bound, said]


def _carried(matrix: Matrix) -> str:
    targets, lines = pairs(matrix)
    titles = ["from", *(f"to {_text(target)}" for target in targets)]
    cells = [[_text(source), *map(_pair, carried)] for source, carried in lines]
    return _table(titles, ["---" for _ in titles], cells)


def _pair(carried: CarriedStream | None) -> str:
    if carried is None:
        return ""
    said = _VERDICTS[carried.status]
    return f"{said} {score(worst_of(carried.measurements))}" if carried.measurements else said


def _section(title: str, parts: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    if not parts:
        return []
    lines = []
    for name, reasons in parts:
        if len(reasons) == 1:
            lines.append(f"- {_text(name)}: {_text(reasons[0])}")
        else:
            lines += [f"- {_text(name)}:", *(f"  - {_text(line)}" for line in reasons)]
    return [f"### {title}", "\n".join(lines)]


def _environment(matrix: Matrix) -> list[str]:
    groups = environments(matrix)
    if not groups:
        return []
    lines = []
    for engines, facts in groups:
        lines.append(["measured on", _text(", ".join(engines))])
        lines += [[_text(name), _text(value)] for name, value in facts.items()]
    table = _table(["environment", ""], ["---", "---"], lines)
    return ["<details><summary>Environment</summary>", table, "</details>"]


def _table(titles: Iterable[str], marks: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, marks, *lines))


def _bold(text: str, passed: bool) -> str:
    return text if passed else f"**{text}**"


def _text(text: str) -> str:
    """The text as it is, on one line: nothing in it is Markdown, HTML or the end of a cell."""
    line = " ".join(printable(text).split())
    escaped = _MEANT.sub(_entity, line)
    return re.sub(r"[\\`*_\[\]|~$]", r"\\\g<0>", escaped)


def _entity(match: re.Match[str]) -> str:
    """The last sign of a match by its number."""
    return f"{match[0][:-1]}&#{ord(match[0][-1])};"
