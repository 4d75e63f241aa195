"""The Markdown report, rendered by another program and compared with the matrix."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

from markdown_it import MarkdownIt

from stateport.engines.choice import EngineChoice
from stateport.parity.matrix import Matrix
from stateport.parity.reports import markdown
from stateport.parity.reports.wording import kinds, verdict
from stateport.printable import printable


class Markdown:
    """A rendered page: its tables, its headings, its items, and the HTML that was in it."""

    def __init__(self, text: str) -> None:
        tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
        self.tables: list[list[list[str]]] = []
        self.headings: list[str] = []
        self.items: list[str] = []
        self.html = [t.content.strip() for t in tokens if t.type == "html_block"]
        for before, token in pairwise(tokens):
            if token.type == "tr_open":
                self.tables[-1].append([])
            elif token.type == "thead_open":
                self.tables.append([])
            elif token.type == "inline":
                children = token.children or []
                self.html += [child.content for child in children if child.type == "html_inline"]
                assert not {child.type for child in children} & {
                    "link_open",
                    "image",
                    "code_inline",
                }
                self.put(before.type, "".join(child.content for child in children))

    def put(self, place: str, text: str) -> None:
        if place in ("th_open", "td_open"):
            self.tables[-1][-1].append(text)
        elif place == "heading_open":
            self.headings.append(text)
        else:
            self.items.append(text)


def line(text: str) -> str:
    return " ".join(printable(text).split())


def test_markdown_has_the_matrix_as_a_table(matrix: Matrix) -> None:
    found = Markdown(markdown.render(matrix))
    assert found.headings[0] == line(verdict(matrix))
    head, *rows = found.tables[0]
    columns = [line(kind) for kind in kinds(matrix)]
    assert head == ["engine", "version", *columns, "allowed", "verdict"]
    words = {"passed": "pass", "failed": "FAIL", "error": "ERROR", "not run": "not run"}
    said = [(row[0], row[-1]) for row in rows]
    assert said == [(line(str(row.choice)), words[row.status]) for row in matrix.rows]
    assert {len(row) for row in rows} == {len(head)}


def test_markdown_has_the_carried_streams_as_a_table(failing: Matrix) -> None:
    found = Markdown(markdown.render(failing))
    head, first, second = found.tables[1]
    assert head == ["from", "to ort-cpu", "to openvino", "to tract"]
    assert [cell.split(" ")[0] for cell in first] == ["ort-cpu", "", "FAIL", "ERROR"]
    assert [cell.split(" ")[0] for cell in second] == ["openvino", "FAIL", "", ""]


def test_markdown_says_what_failed(failing: Matrix) -> None:
    found = Markdown(markdown.render(failing))
    assert {"What failed", "Not run"} <= set(found.headings)
    text = "\n".join(found.items)
    for row in failing.rows[2:]:
        assert row.problem is not None
        assert f"{row.choice}: {row.problem}" in text
    assert "cn is " in text
    assert failing.grown[0] in text
    assert {str(failing.rows[0].located), "It was not found."} <= set(found.items)


def test_markdown_of_what_passed_has_no_failures(passing: Matrix) -> None:
    text = markdown.render(passing)
    assert "FAIL" not in text
    assert "What failed" not in text


def test_markdown_has_decibels_for_reduced_precision(quantized: Matrix) -> None:
    assert re.search(r"\| \d\d\.\d dB \|", markdown.render(quantized))


def test_markdown_notes_a_precision_that_was_not_computed_in(passing: Matrix) -> None:
    asked = replace(passing.rows[1], choice=EngineChoice("openvino", {"precision": "bf16"}))
    assert asked.report is not None
    assert asked.report.precision == "float32"
    text = markdown.render(replace(passing, rows=(asked,)))
    assert "This processor has no bf16. The engine computed in float32" in text
    full = replace(passing, rows=(passing.rows[0],))
    assert "Notes" not in markdown.render(full)


def test_markdown_has_no_html_but_the_details(matrix: Matrix) -> None:
    found = Markdown(markdown.render(matrix))
    assert found.html == ["<details><summary>Environment</summary>", "</details>"]


def test_hostile_names_are_shown_in_markdown_as_they_are(hostile: Matrix) -> None:
    found = Markdown(markdown.render(hostile))
    assert found.tables[0][1][0] == line(str(hostile.rows[0].choice))
    assert f"Model: {line(hostile.model)}" in found.items


def test_an_engine_that_is_required_and_not_here_has_failed(passing: Matrix) -> None:
    found = Markdown(markdown.render(replace(passing, required=True)))
    assert found.headings[0].startswith("FAIL: ")
    assert "What failed" in found.headings
    assert "Not run" not in found.headings
