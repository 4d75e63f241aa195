"""Draws the flowcharts of the pages as SVG, so that the site fetches nothing from elsewhere.

A page has them in Mermaid, which GitHub draws: lines of the form `a --> b`. Every room is below all
rooms that lead to it.
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

#: A fence with a flowchart, and its lines.
_FENCE: Final = re.compile(
    r"^```mermaid\nflowchart TD\n(?P<lines>.*?)^```$", re.DOTALL | re.MULTILINE
)
_ARROW: Final = re.compile(r"^\s*(?P<source>[\w.]+) --> (?P<target>[\w.]+)\s*$")

_HEIGHT: Final = 30
_ROW: Final = 78
_GAP: Final = 16
_CHARACTER: Final = 8

_STYLE: Final = 'style="max-width: 100%; font: 13px sans-serif"'

Box = tuple[float, float, float]  # the middle of a room, its upper edge, and its width


def with_drawings(page: str) -> str:
    """The page with an SVG in place of each flowchart."""
    return _FENCE.sub(lambda fence: _as_directive(fence["lines"]), page)


def _as_directive(lines: str) -> str:
    return f"```{{raw}} html\n{drawing(_arrows(lines))}\n```"


def _arrows(lines: str) -> list[tuple[str, str]]:
    """The pairs of rooms that an arrow joins.

    Raises:
        ValueError: a line has another form.
    """
    arrows = []
    for line in lines.splitlines():
        match = _ARROW.match(line)
        if match is None:
            raise ValueError(f"{line!r} is no arrow of a flowchart; a --> b was expected.")
        arrows.append((match["source"], match["target"]))
    return arrows


def drawing(arrows: Sequence[tuple[str, str]]) -> str:
    """The flowchart as one SVG element, in the colours of the page."""
    rows = _rows(arrows)
    width = max(map(_width_of_row, rows))
    boxes = _boxes(rows, width)

    parts = [_line(boxes[source], boxes[target]) for source, target in arrows]
    parts += [_box(name, box) for name, box in boxes.items()]
    height = len(rows) * _ROW - (_ROW - _HEIGHT) + 2
    size = f'width="{width + 2:.0f}" viewBox="-1 -1 {width + 2:.0f} {height:.0f}"'
    return "\n".join(
        [
            f'<svg {size} role="img" {_STYLE}>',
            f"<title>{html.escape(_in_words(arrows))}</title>",
            *parts,
            "</svg>",
        ]
    )


def _rows(arrows: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The rooms by their depth: the number of arrows on the longest way to them."""
    sources = defaultdict(set)
    for source, target in arrows:
        sources[target].add(source)
        sources.setdefault(source, set())

    depths: dict[str, int] = {}
    rows: list[list[str]] = []
    for name in sorted(sources):
        depth = _depth(name, sources, depths)
        while len(rows) <= depth:
            rows.append([])
        rows[depth].append(name)
    return rows


def _depth(name: str, sources: Mapping[str, set[str]], depths: dict[str, int]) -> int:
    if name not in depths:
        depths[name] = max((_depth(s, sources, depths) + 1 for s in sources[name]), default=0)
    return depths[name]


def _boxes(rows: Sequence[Sequence[str]], width: float) -> dict[str, Box]:
    boxes = {}
    for number, row in enumerate(rows):
        left = (width - _width_of_row(row)) / 2
        for name in row:
            box_width = _width(name)
            boxes[name] = (left + box_width / 2, float(number * _ROW), box_width)
            left += box_width + _GAP
    return boxes


def _width(name: str) -> float:
    return len(name) * _CHARACTER + 18


def _width_of_row(row: Sequence[str]) -> float:
    return sum(map(_width, row)) + _GAP * (len(row) - 1)


def _box(name: str, box: Box) -> str:
    middle, top, width = box
    return (
        f'<rect x="{middle - width / 2:.0f}" y="{top:.0f}" width="{width:.0f}" '
        f'height="{_HEIGHT}" rx="5" style="fill: var(--color-background-primary, white); '
        'stroke: currentColor"/>'
        f'<text x="{middle:.0f}" y="{top + 20:.0f}" text-anchor="middle" '
        f'fill="currentColor">{html.escape(name)}</text>'
    )


def _line(source: Box, target: Box) -> str:
    """An arrow from the lower edge of one room to the upper edge of another, with its head."""
    x, y = source[0], source[1] + _HEIGHT
    end, top = target[0], target[1]
    return (
        f'<path d="M{x:.0f},{y:.0f} L{end:.0f},{top:.0f} m-4,-8 l4,8 l4,-8" '
        'style="fill: none; stroke: currentColor; opacity: 0.5"/>'
    )


def _in_words(arrows: Sequence[tuple[str, str]]) -> str:
    return "; ".join(_sentences(arrows))


def _sentences(arrows: Sequence[tuple[str, str]]) -> Iterator[str]:
    targets = defaultdict(list)
    for source, target in arrows:
        targets[source].append(target)
    for source, names in targets.items():
        yield f"{source} leads to {', '.join(names)}"
