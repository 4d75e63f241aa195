# SPDX-License-Identifier: Apache-2.0
"""The tables of all commands: they fit their width, and break no name over two lines.

A table that is too wide is made narrower in steps: long texts and headings wrap at words; then the
least important columns are left out, which a line below says; at last each row becomes a list.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.box import SIMPLE_HEAD, Box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

#: The width that a column of long texts keeps at least.
_LEAST: Final = 20
#: Wider than any table.
_ENDLESS: Final = 1_000_000

#: As SIMPLE_HEAD, for encodings that have no other line.
_ASCII_HEAD: Final = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)

Cell = str | Text


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: the text above it.
        rank: 0 if it is always shown; of the others, the one of the highest rank is left out first.
        right: whether it is aligned to the right, as numbers are.
        wraps: whether its texts may continue on the next line, at a space.
        style: rich's name of a style.
    """

    heading: str = ""
    rank: int = 0
    right: bool = False
    wraps: bool = False
    style: str = ""


class Table:
    """Rows below headings. `rich` draws it; the console decides how a `str` is made printable."""

    def __init__(self, *columns: Column, title: str = "") -> None:
        """Makes a table without rows.

        Args:
            columns: its columns. If none has a heading, there is no line of headings.
            title: a line above it.
        """
        self.columns = columns
        self.title = title
        self._rows: list[tuple[tuple[Cell, ...], str]] = []
        self._ends: set[int] = set()

    def add(self, *cells: Cell, style: str = "") -> None:
        """Adds a row, with one cell for each column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells came for {len(self.columns)} columns")
        self._rows.append((cells, style))

    def end_group(self) -> None:
        """Puts some space between the rows so far and the next one."""
        self._ends.add(len(self._rows) - 1)

    def width(self, console: Console) -> int:
        """The width that the table needs with all columns, and with long texts wrapped."""
        title = _rendered(console, self.title).cell_len
        return max(title, self._width_of(console, range(len(self.columns)), stacked=False))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws the table into the width that `options` give."""
        if self.title:
            yield _rendered(console, self.title, "bold")

        width = options.max_width
        for columns in self._choices():
            for stacked in (False, True):
                if self._width_of(console, columns, stacked=stacked) <= width:
                    yield self._grid(console, columns, stacked=stacked)
                    yield from self._note(console, columns, width)
                    return

        yield from self._lists(console)

    def _choices(self) -> Iterator[Sequence[int]]:
        """The columns to try: all, then fewer and fewer."""
        columns = list(range(len(self.columns)))
        yield tuple(columns)

        by_rank = sorted(columns, key=lambda number: self.columns[number].rank, reverse=True)
        for number in by_rank:
            if self.columns[number].rank == 0:
                return
            columns.remove(number)
            yield tuple(columns)

    def _width_of(self, console: Console, columns: Sequence[int], *, stacked: bool) -> int:
        grid = self._grid(console, columns, stacked=stacked)
        endless = console.options.update(max_width=_ENDLESS)
        return Measurement.get(console, endless, grid).minimum

    def _grid(self, console: Console, columns: Sequence[int], *, stacked: bool) -> Grid:
        """These columns as rich draws them, with headings on one line or on several."""
        has_headings = any(column.heading for column in self.columns)
        box = _ASCII_HEAD if console.options.ascii_only else SIMPLE_HEAD
        grid = Grid(
            box=box if has_headings else None,
            show_header=has_headings,
            padding=(0, 1 if has_headings else 2, 0, 0),
            pad_edge=has_headings,
        )

        for number in columns:
            self._add_column(grid, console, number, stacked=stacked)
        for number, (cells, style) in enumerate(self._rows):
            shown = [cells[column] for column in columns]
            grid.add_row(*shown, style=style, end_section=number in self._ends)
        return grid

    def _add_column(self, grid: Grid, console: Console, number: int, *, stacked: bool) -> None:
        """Adds a column to what rich draws; it is as wide as its cells, unless they may wrap."""
        column = self.columns[number]
        natural = max((_width(console, cells[number]) for cells, _ in self._rows), default=0)
        heading = _heading(console, column.heading, natural if stacked else _ENDLESS)
        least = min(natural, _LEAST) if column.wraps else natural

        grid.add_column(
            heading,
            style=column.style,
            justify="right" if column.right else "left",
            min_width=max(least, _width(console, heading)),
            no_wrap=not column.wraps,
            overflow="fold",
        )

    def _note(self, console: Console, columns: Sequence[int], width: int) -> Iterator[Padding]:
        """A line on the columns that are left out, if any are."""
        names = []
        for number, column in enumerate(self.columns):
            if number not in columns and column.heading:
                names.append(column.heading)

        if names:
            text = (
                f"Left out to fit {width} columns: {', '.join(names)}. "
                "A wider terminal or a pipe shows all."
            )
            yield Padding(_rendered(console, text, "dim"), (0, 0, 1, 1))

    def _lists(self, console: Console) -> Iterator[Padding]:
        """Each row as a list of headings and cells, where not even the names fit side by side."""
        for cells, style in self._rows:
            for column, cell in zip(self.columns, cells, strict=True):
                text = cell if isinstance(cell, Text) else _rendered(console, cell)
                if not text.plain:
                    continue
                heading = _rendered(console, column.heading, "bold")
                separator = ": " if column.heading else ""
                line = Text.assemble(heading, separator, text, style=style, overflow="fold")
                yield Padding(line, (0, 0, 0, 1))
            yield Padding("", 0)


def facts() -> Table:
    """A table of two columns without headings: a name, and what there is to say of it."""
    return Table(Column(style="bold", wraps=True), Column(wraps=True))


def _rendered(console: Console, text: str, style: str = "") -> Text:
    return console.render_str(text, style=style, overflow="fold")


def _width(console: Console, cell: Cell) -> int:
    """The width of a cell's longest line."""
    text = cell if isinstance(cell, Text) else _rendered(console, cell)
    return max((line.cell_len for line in text.split("\n")), default=0)


def _heading(console: Console, heading: str, width: int) -> Text:
    """A heading on as many lines as it takes to be no wider than this, if its words are not."""
    words = heading.split()
    widest = max([width, *map(len, words)])
    lines = textwrap.wrap(heading, widest, break_long_words=False, break_on_hyphens=False)
    return Text("\n").join(_rendered(console, line) for line in lines)
