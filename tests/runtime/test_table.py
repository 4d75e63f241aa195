"""Tables at every width: no cell is broken, and what is left out is said."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from stateport.table import Column, Table, facts


def drawn(table: Table, width: int, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.fixture
def table() -> Table:
    made = Table(
        Column("engine"),
        Column("version", rank=3),
        Column("steps per second", rank=2, right=True),
        Column("p99", rank=1, right=True),
        Column("verdict"),
        title="A model",
    )
    made.add("onnx-reference", "onnx 1.23.2", "12,345", "1.5", "not run")
    made.add("openvino:precision=bfloat16", "openvino 2026.4", "1", "20.0", "pass")
    return made


def words(lines: list[str]) -> list[str]:
    return list(itertools.chain.from_iterable(line.split() for line in lines))


@pytest.mark.parametrize("width", [200, 120, 100, 80, 70, 60, 50, 44, 40])
def test_no_name_and_no_verdict_is_broken(table: Table, width: int) -> None:
    lines = drawn(table, width)
    assert max(map(len, lines)) <= width
    for name in ("onnx-reference", "openvino:precision=bfloat16", "pass"):
        assert name in words(lines)
    assert any("not run" in line for line in lines)


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (80, []),
        (79, []),  # the headings take two lines
        (66, ["version"]),
        (50, ["version", "steps per second"]),
        (43, ["version", "steps per second", "p99"]),
    ],
)
def test_the_least_important_columns_go_first_and_are_named_once(
    table: Table, width: int, left_out: list[str]
) -> None:
    text = " ".join(words(drawn(table, width)))
    note = f"Left out to fit {width} columns: {', '.join(left_out)}. A wider terminal or a pipe"
    assert text.count("Left out") == bool(left_out)
    assert not left_out or note in text
    assert ("onnx 1.23.2" in text) == ("version" not in left_out)
    assert ("20.0" in text) == ("p99" not in left_out)


def test_where_nothing_fits_each_row_is_a_list(table: Table) -> None:
    lines = drawn(table, 30)
    assert " version: onnx 1.23.2" in lines
    assert " verdict: not run" in lines
    assert "Left out" not in " ".join(lines)
    assert "openvino:precision=bfloat16" in "".join(line.strip() for line in lines)


def test_numbers_are_aligned_to_the_right(table: Table) -> None:
    lines = drawn(table, 120)
    ends = [
        line.index(number) + len(number)
        for line in lines
        for number in ("1.5 ", "20.0 ")
        if number in line
    ]
    assert len(ends) == 2
    assert len({*ends}) == 1


def test_long_texts_wrap_at_words() -> None:
    table = Table(Column("operator"), Column("now", wraps=True))
    table.add("LSTM", "as it was: " + "its weights are computed by the graph itself " * 3)
    lines = drawn(table, 40)
    assert max(map(len, lines)) <= 40
    assert words(lines).count("computed") == 3
    assert "Left out" not in " ".join(lines)


def test_facts_have_no_headings() -> None:
    table = facts()
    table.add("engine", "works")
    table.add("a longer name", "no " * 40)
    lines = drawn(table, 60)
    assert lines[0] == "engine         works"
    assert max(map(len, lines)) <= 60


def test_a_table_without_rows_has_its_headings(table: Table) -> None:
    empty = Table(*table.columns)
    assert "verdict" in " ".join(drawn(empty, 80))


def test_groups_are_apart() -> None:
    table = Table(Column("load"))
    table.add("one")
    table.end_group()
    table.add("two")
    lines = [line.strip() for line in drawn(table, 80)]
    assert lines[lines.index("one") + 1] == ""


def test_what_ascii_lacks_is_drawn_otherwise(table: Table) -> None:
    lines = drawn(table, 120, "ascii")
    assert "".join(lines).isascii()
    assert any(line.strip("- ") == "" and "---" in line for line in lines)
    assert not any("|" in line or "+" in line for line in lines)


def test_a_row_has_a_cell_for_each_column(table: Table) -> None:
    with pytest.raises(ValueError, match="2 cells came for 5 columns"):
        table.add("tract", "pass")
