# SPDX-License-Identifier: Apache-2.0
"""The results of a benchmark as a picture: one self-contained SVG, for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final
from xml.sax import saxutils

from ..printable import printable
from .run import Bench, Result

_WIDTH: Final = 860
_NAME: Final = 200  # the width of the names before the bars
_BAR: Final = 340  # the width of a bar at 100 %
_ROW: Final = 26
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
    """An SVG document with a bar for each result: its share of the machine's limit."""
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
    threads = "1 thread" if ceilings.threads == 1 else f"{ceilings.threads} threads"
    return (
        "Bars: the share of the machine's limit (dashed line: 100%; with "
        f"{threads} {ceilings.bandwidth / 1e9:.1f} GB/s, {ceilings.peak / 1e9:.0f} GFLOP/s)"
    )


def _elements(bench: Bench) -> Iterator[tuple[int, str]]:
    """The elements below the caption, each with its distance from the top."""
    y = 64
    for load, results in groupby(bench.results, key=lambda result: result.load):
        y += 24
        yield y, f'<text class="load" x="20" y="{y}">{_escaped(str(load))}</text>'

        y += 8
        first = y
        for result in results:
            for element in _row(result, y):
                yield y, element
            y += _ROW

        end = 20 + _NAME + _BAR
        yield y, f'<line class="ceiling" x1="{end}" x2="{end}" y1="{first}" y2="{y - 4}"/>'


def _row(result: Result, y: int) -> Iterator[str]:
    """The elements of one result: its name, its bar and its figures."""
    start = 20 + _NAME
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    yield f'<text x="20" y="{y + 16}">{_escaped(f"{result.name}, {threads}")}</text>'

    yield f'<rect class="rail" x="{start}" y="{y + 3}" width="{_BAR}" height="{_ROW - 9}" rx="2"/>'
    is_pytorch = result.against is None and "PyTorch" in result.name
    kind = "beside" if is_pytorch else "bar"
    width = max(min(result.share, 1.0) * _BAR, 2)
    yield (
        f'<rect class="{kind}" x="{start}" y="{y + 3}" width="{width:.1f}" '
        f'height="{_ROW - 9}" rx="2"/>'
    )

    text = (
        f"{result.times.median * 1e6:,.1f} us, {result.share_text}, "
        f"{result.steps_per_second:,.0f} steps/s, p99 {result.times.latency(0.99) * 1e6:,.0f} us"
    )
    yield f'<text x="{start + _BAR + 12}" y="{y + 16}">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    """The text as the content of an element."""
    return saxutils.escape(printable(text))
