# SPDX-License-Identifier: Apache-2.0
"""The results of a benchmark as a picture: one self-contained SVG, for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final
from xml.sax import saxutils

from ..printable import printable
from ..shown import counted
from .run import Bench, Result

_WIDTH: Final = 960
_ROW: Final = 26
_BAR: Final = 170  # the width of a bar at 100 %
_TIME: Final = 205  # where the bars of times begin, below the names before them
_SHARE: Final = 480  # where the bars of shares begin
_FIGURES: Final = 728  # where the other figures begin
_LONGEST_NAME: Final = 25
_STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 17px; font-weight: 600 } .load { font-weight: 600 }
  .small { font-size: 11px; fill: #59636e }
  .paper { fill: #fff } .rail { fill: #eaeef2 } .bar { fill: #2f7ed8 } .beside { fill: #b35900 }
  .ceiling { stroke: #1f2328; stroke-width: 1.5; stroke-dasharray: 3 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 } .paper { fill: #0d1117 } .rail { fill: #21262d }
    .bar { fill: #58a6ff } .beside { fill: #d29922 } .ceiling { stroke: #e6edf3 }
  }
"""


def picture(bench: Bench) -> str:
    """An SVG document with two bars for each result: its time, and its share of the limit."""
    elements = list(_elements(bench))
    last_y, _ = elements[-1]
    height = last_y + 40

    name = _escaped(Path(bench.model).name)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>Benchmark of {name}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="20" y="32">{name}</text>',
        f'<text class="small" x="20" y="50">{_escaped(_caption(bench))}</text>',
        *(element for _, element in elements),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _caption(bench: Bench) -> str:
    ceilings = bench.ceilings[0]
    return (
        "Left: the time of a call, beside the slowest under the same load. Right: the share of the "
        f"machine's limit (with {counted(ceilings.threads, 'thread')} "
        f"{ceilings.bandwidth / 1e9:.1f} GB/s, {ceilings.peak / 1e9:.0f} GFLOP/s)"
    )


def _elements(bench: Bench) -> Iterator[tuple[int, str]]:
    """The elements below the caption, each with its distance from the top."""
    y = 64
    for load, group in groupby(bench.results, key=lambda result: result.load):
        results = list(group)
        slowest = max(result.times.median for result in results)

        y += 24
        yield y, f'<text class="load" x="20" y="{y}">{_escaped(str(load))}</text>'
        yield y, f'<text class="small" x="{_TIME}" y="{y}">time of a call</text>'
        yield y, f'<text class="small" x="{_SHARE}" y="{y}">share of the limit</text>'

        y += 8
        first = y
        for result in results:
            for element in _row(result, slowest, y):
                yield y, element
            y += _ROW

        end = _SHARE + _BAR
        yield y, f'<line class="ceiling" x1="{end}" x2="{end}" y1="{first}" y2="{y - 4}"/>'


def _row(result: Result, slowest: float, y: int) -> Iterator[str]:
    """The elements of one result: its name, its bars and its figures."""
    times = result.times
    name = f"{_shortened(result.name)}, {counted(result.threads, 'thread')}"
    yield _text(20, y, name)

    is_pytorch = result.against is None and "PyTorch" in result.name
    kind = "beside" if is_pytorch else "bar"
    share = times.median / slowest if slowest else 0.0
    yield from _bar(kind, _TIME, y, share)
    yield _text(_TIME + _BAR + 8, y, f"{_microseconds(times.median)} us")

    yield from _bar(kind, _SHARE, y, result.share)
    yield _text(_SHARE + _BAR + 8, y, result.share_text)

    p99 = _microseconds(times.latency(0.99))
    figures = f"{result.steps_per_second:,.0f} steps/s, p99 {p99} us"
    yield _text(_FIGURES, y, figures, "small")


def _bar(kind: str, x: int, y: int, share: float) -> Iterator[str]:
    """A rail, and the bar on it: as long as the rail for a share of 1 and above."""
    box = f'y="{y + 3}" height="{_ROW - 9}" rx="2"'
    yield f'<rect class="rail" x="{x}" width="{_BAR}" {box}/>'
    width = max(min(share, 1.0) * _BAR, 2)
    yield f'<rect class="{kind}" x="{x}" width="{width:.1f}" {box}/>'


def _text(x: int, y: int, text: str, style: str = "") -> str:
    styled = f' class="{style}"' if style else ""
    return f'<text{styled} x="{x}" y="{y + 16}">{_escaped(text)}</text>'


def _microseconds(seconds: float) -> str:
    """Microseconds in a few characters: `2.0`, `12,450`."""
    number = seconds * 1e6
    return f"{number:,.1f}" if number < 1e4 else f"{number:,.0f}"


def _shortened(name: str) -> str:
    """A name that leaves the bars free."""
    longest = _LONGEST_NAME - len(", 16 threads")
    return name if len(name) <= longest + 3 else f"{name[: longest + 2]}…"


def _escaped(text: str) -> str:
    """The text as the content of an element."""
    return saxutils.escape(printable(text))
