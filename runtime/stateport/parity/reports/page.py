# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page that needs no script, no other file and no network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

from ...printable import printable
from ..engine_report import EngineReport, Measurement
from ..matrix import CarriedStream, EngineVerdict, Matrix
from .alike import common_fault
from .common import environments, explained, failed, not_run, notes, pairs, status
from .curves import Line, chart, legend, lines
from .wording import (
    decibels,
    kinds,
    multiple,
    number,
    outcome,
    score,
    verdict,
    worst_by_kind,
    worst_of,
)

_STYLE: Final = Path(__file__).with_name("page.css")
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_RIGHT: Final = ' class="number"'
_NUMBERS: Final = ("error", "floor", "x floor", "dB", "of allowed", "step")
#: By status: the class, the sign, and the word.
_SIGNS: Final = {
    "passed": ("good", "✓", "pass"),
    "failed": ("bad", "✗", "FAIL"),
    "error": ("bad", "!", "ERROR"),
    "not run": ("off", "○", "not run"),
    "required": ("bad", "!", "not run"),
}


def render(matrix: Matrix) -> str:
    """The whole page."""
    name = _text(Path(matrix.model).name)
    word, style = ("PASS", "good") if matrix.passed else ("FAIL", "bad")
    sections = "\n".join(_sections(matrix))
    fault = common_fault(matrix)
    first = "" if fault is None else f'<p class="fault">{_text(fault)}</p>\n'

    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{word}: {name}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<header>
<h1>{name}</h1>
<p class="verdict {style}">{_text(verdict(matrix))}</p>
{first}<p class="quiet">{_text(matrix.model)}</p>
</header>
{sections}
</main>
</body>
</html>
"""


def _sections(matrix: Matrix) -> Iterable[str]:
    yield _section("Engines", f'{_matrix(matrix)}<p class="quiet">{_text(explained(matrix))}</p>')
    yield _listed("What failed", failed(matrix))
    yield _listed("Not run", not_run(matrix))
    yield _listed("Notes", notes(matrix))
    if matrix.carried:
        yield _section("Streams carried from one engine to another", _carried(matrix))

    yield _curves(matrix)

    details = [_engine(row.report, str(row.choice)) for row in matrix.rows if row.report]
    if details:
        yield _section("Every case", "".join(details))
        yield _section("Environment", _environment(matrix))


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _matrix(matrix: Matrix) -> str:
    headings = kinds(matrix)
    body = [_row(matrix, row, headings) for row in matrix.rows]
    return _table("Engines", ["engine", "verdict", *headings, "allowed"], body, headings)


def _row(matrix: Matrix, row: EngineVerdict, headings: Sequence[str]) -> str:
    version = bound = ""
    worst: dict[str, Measurement] = {}
    if row.report is not None:
        version = f"<small>{_text(row.report.engine_version)}</small>"
        worst = worst_by_kind(row.report.measurements)
        bound = _text(row.report.bound)

    head = f'<th scope="row">{_name(str(row.choice))}{version}</th>'
    scores = "".join(_score_cell(worst.get(heading)) for heading in headings)
    return f"<tr>{head}{_verdict(status(matrix, row))}{scores}<td>{bound}</td></tr>"


def _score_cell(measurement: Measurement | None) -> str:
    if measurement is None:
        return "<td></td>"
    style, sign, word = _SIGNS[outcome(measurement)]
    return f'<td class="number {style}">{_sign(sign, word)} {_text(score(measurement))}</td>'


def _verdict(status: str) -> str:
    style, sign, word = _SIGNS[status]
    return f'<td class="{style}"><span aria-hidden="true">{sign}</span> {word}</td>'


def _sign(sign: str, word: str) -> str:
    return f'<span role="img" aria-label="{word}">{sign}</span>'


def _listed(title: str, parts: Sequence[tuple[str, Sequence[str]]]) -> str:
    if not parts:
        return ""

    entries = []
    for name, reasons in parts:
        items = "".join(f"<li>{_sentence(reason)}</li>" for reason in reasons)
        entries.append(f"<dt>{_text(name)}</dt><dd><ul>{items}</ul></dd>")
    return _section(title, f'<dl class="reasons">{"".join(entries)}</dl>')


def _carried(matrix: Matrix) -> str:
    targets, rows = pairs(matrix)
    body = []
    for source, streams in rows:
        cells = "".join(map(_carried_cell, streams))
        body.append(f'<tr><th scope="row">{_name(source)}</th>{cells}</tr>')

    headings = [f"to {target}" for target in targets]
    return _table("Carried streams", ["from", *headings], body, headings)


def _carried_cell(carried: CarriedStream | None) -> str:
    if carried is None:
        return "<td></td>"
    if carried.status == "error":
        return _verdict("error")
    return _score_cell(worst_of(carried.measurements))


def _curves(matrix: Matrix) -> str:
    charts = lines(matrix)
    if not charts:
        return ""

    figures = []
    drawn: list[Line] = []
    for (output, case), lines_of_chart in charts.items():
        drawn += lines_of_chart
        caption = f"<figcaption><b>{_text(output)}</b>, {_text(case)}</figcaption>"
        figures.append(f"<figure>{caption}{chart(output, case, lines_of_chart)}</figure>")

    body = f'<ul class="legend">{legend(drawn)}</ul><div class="charts">{"".join(figures)}</div>'
    return _section("The error along the longest case", body)


def _engine(report: EngineReport, label: str) -> str:
    passed = sum(measurement.passed for measurement in report.measurements)
    style, sign, word = _SIGNS[outcome(report)]
    count = f"{_sign(sign, word)} {passed} of {len(report.measurements)} pass"
    facts = (
        f"{report.engine_version}, {report.precision}; truth in {report.truth}, up to "
        f"{report.steps} chained steps; allowed: {report.bound}"
    )

    body = [*map(_measurement_row, report.measurements)]
    table = _table(f"Cases on {label}", ["case", "output", *_NUMBERS, "verdict"], body, _NUMBERS)
    return (
        f'<details><summary>{_name(label)} <span class="{style}">{count}</span></summary>'
        f'<p class="quiet">{_text(facts)}</p>{table}</details>'
    )


def _measurement_row(measurement: Measurement) -> str:
    head = f'<th scope="row">{_text(measurement.case)}</th><td>{_text(measurement.output)}</td>'
    verdict_cell = _verdict(outcome(measurement))
    if measurement.problem is not None:
        problem = _text(measurement.problem)
        problem_cell = f'<td colspan="{len(_NUMBERS)}" class="problem">{problem}</td>'
        return f"<tr>{head}{problem_cell}{verdict_cell}</tr>"

    cells = [
        number(measurement.error),
        number(measurement.floor),
        multiple(measurement.multiple),
        decibels(measurement.snr).removesuffix(" dB"),
        _share(measurement.share),
        "" if measurement.step is None else str(measurement.step),
    ]
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f"<tr>{head}{numbers}{verdict_cell}</tr>"


def _share(share: float | None) -> str:
    if share is None:
        return ""
    return f"{share:.0%}" if share < 10 else f"{multiple(share)} x"


def _environment(matrix: Matrix) -> str:
    groups = []
    for engines, environment in environments(matrix):
        facts = {"measured on": ", ".join(engines), **environment}
        rows = (f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items())
        groups.append(f'<dl class="facts">{"".join(rows)}</dl>')
    return "".join(groups)


def _table(label: str, headings: Iterable[str], rows: Iterable[str], numbers: Sequence[str]) -> str:
    """A table that scrolls within itself, also with the keyboard.

    Args:
        label: what a screen reader calls it.
        headings: the headings of its columns.
        rows: its rows in HTML.
        numbers: the headings of the columns that are aligned to the right.
    """
    head = ""
    for heading in headings:
        right = _RIGHT if heading in numbers else ""
        head += f'<th scope="col"{right}>{_name(heading)}</th>'

    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{_text(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _text(text: str) -> str:
    return escape(printable(text))


def _name(text: str) -> str:
    """A name that may break between its parts, such as `openvino:precision=bfloat16`."""
    return re.sub(r"(?<=\w)[:=,/](?=\w)", r"\g<0><wbr>", _text(text))


def _sentence(text: str) -> str:
    """A sentence whose numbers do not break: browsers break lines at the hyphen of `1.3e-07`."""
    return re.sub(r"\d\.\de[-+]\d+", r'<span class="whole">\g<0></span>', _text(text))
