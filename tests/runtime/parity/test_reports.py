"""The forms of a report: JSON against its schema, HTML without a browser, and all alike."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from stateport.errors import FileError
from stateport.parity.matrix import Matrix
from stateport.parity.reports import ENDINGS, page, write
from stateport.parity.reports.document import render
from stateport.parity.reports.wording import verdict
from stateport.printable import printable

DOCS = Path(__file__).parents[3] / "docs"
SCHEMA = json.loads((DOCS / "report.schema.json").read_text(encoding="utf-8"))


def strict(text: str) -> Any:
    """Reads JSON; NaN and Infinity are not JSON."""

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def validate(document: Any) -> None:
    Draft202012Validator(SCHEMA).validate(document)


# The matrices themselves: what the tests below rest on.


def test_the_matrices_hold_every_status(passing: Matrix, failing: Matrix) -> None:
    assert passing.passed
    assert [row.status for row in passing.rows] == ["passed", "passed", "passed", "not run"]
    assert not failing.passed
    assert [row.status for row in failing.rows] == ["failed", "failed", "not run", "error"]
    assert [carried.status for carried in failing.carried] == ["failed", "failed", "error"]


# JSON


def test_the_json_keeps_to_its_schema(matrix: Matrix) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    document = strict(render(matrix))
    validate(document)
    assert document["passed"] == matrix.passed
    assert [engine["status"] for engine in document["engines"]] == [r.status for r in matrix.rows]
    for engine, row in zip(document["engines"], matrix.rows, strict=True):
        assert len(engine["measurements"]) == (len(row.report.measurements) if row.report else 0)


def test_infinite_numbers_are_text(infinite: Matrix) -> None:
    document = strict(render(infinite))
    measurements = document["engines"][0]["measurements"]
    assert {m["error"] for m in measurements} >= {"inf", None}
    assert any("inf" in m["curve"]["errors"] for m in measurements if m["curve"])


def parts(document: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a kind once, but those whose names are free."""
    if isinstance(document, dict):
        if path.rpartition(".")[2] not in ("options", "environment", "made_with"):
            yield path, document
            for name, part in document.items():
                yield from parts(part, f"{path}.{name}")
    elif isinstance(document, list):
        for part in document:
            yield from parts(part, path)


def test_the_schema_refuses_a_field_more_or_less(failing: Matrix) -> None:
    document = strict(render(failing))
    for part in (*document["engines"], *document["carried"]):  # one of each kind is enough
        part["measurements"] = [m for m in part["measurements"] if m["curve"]][:1]
    kept = {path: part for path, part in parts(document) if part.get("curve", 0) is not None}
    deepest = {".engines.located", ".engines.measurements.curve", ".carried.measurements"}
    assert deepest <= kept.keys()
    for part in kept.values():
        for name in list(part):
            value = part.pop(name)
            with pytest.raises(ValidationError):
                validate(document)
            part[name] = value
        part["more"] = 1
        with pytest.raises(ValidationError):
            validate(document)
        del part["more"]
    validate(document)


def test_the_page_on_the_report_names_every_field() -> None:
    text = (DOCS / "report.md").read_text(encoding="utf-8")
    objects = [SCHEMA, *SCHEMA["$defs"].values()]
    fields = {name for part in objects for name in part.get("properties", {})}
    assert not {name for name in fields if f"`{name}`" not in text}
    assert all(f"`{ending}`" in text for ending in ENDINGS)
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    validate(strict(example))


# HTML


class Tags(HTMLParser):
    """The tags of a page with the names of their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "wbr":
            self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_names_add_no_tag_to_the_page(
    named: Callable[[str], Matrix], hostile: Matrix
) -> None:
    tame, wild = Tags(page.render(named("tame"))), Tags(page.render(hostile))
    assert tame.tags == wild.tags
    assert printable(hostile.model) in wild.text


def test_the_page_says_what_failed(failing: Matrix) -> None:
    text = Tags(page.render(failing)).text
    for row in failing.rows[2:]:
        assert row.problem is not None
        assert row.problem in text
    for said in (verdict(failing), "cn is ", failing.grown[0], "✗ FAIL", "! ERROR", "○ not run"):
        assert said in text


def test_the_page_draws_a_line_for_each_engine_and_output(passing: Matrix) -> None:
    text = page.render(passing)
    charts = re.findall(r'<svg viewBox="[^"]*" role="img".*?</svg>', text)
    assert len(charts) == 3
    for chart in charts:
        assert Counter(re.findall(r'class="line (\w+)"', chart)) == Counter(
            ["floor", "bound", "colour0", "colour1", "colour2"]
        )
        assert 'class="mark colour0"' in chart
        assert ">1e-7<" in chart or ">1e-8<" in chart


def test_infinite_errors_are_drawn(infinite: Matrix) -> None:
    text = page.render(infinite)
    assert ">inf</text>" in text
    assert not re.findall(r'd="[^"]*(?:nan|inf)', text)


def test_the_page_marks_an_engine_that_is_required_and_not_here(passing: Matrix) -> None:
    text = Tags(page.render(replace(passing, required=True))).text
    assert "! not run" in text
    assert "Not run" not in text


# All of them


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_form_has_characters_that_xml_forbids(
    matrix: Matrix, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"report{ending}"
    write(matrix, path)
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"[^\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)


def test_an_unknown_ending_is_refused(passing: Matrix, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="unknown ending"):
        write(passing, tmp_path / "report.txt")
