"""The results as a picture: one self-contained SVG, in light and in dark."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final
from xml.sax import saxutils

from ..printable import printable
from .run import Bench, Result

_WIDTH: Final = 860
_NAME: Final = 200  # the width of the names in front of the bars
_BAR: Final = 340  # the width of a bar that reaches the ceiling
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
    """Bars of what the machine could do, load by load, with steps per second beside them."""
    body = list(_body(bench))
    height = body[-1][0] + 40
    name = _text(Path(bench.model).name)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>Benchmark of {name}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="20" y="32">{name}</text>',
        f'<text class="small" x="20" y="50">{_text(_caption(bench))}</text>',
        *(part for _, part in body),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _caption(bench: Bench) -> str:
    ceilings = bench.ceilings[0]
    threads = "1 thread" if ceilings.threads == 1 else f"{ceilings.threads} threads"
    return (
        "Bars: the share of what the machine could do (dashed line: 100%; with "
        f"{threads} {ceilings.bandwidth / 1e9:.1f} GB/s, {ceilings.peak / 1e9:.0f} GFLOP/s)"
    )


def _body(bench: Bench) -> Iterator[tuple[int, str]]:
    """Each element, and where it stands from the top."""
    y = 64
    for load, results in groupby(bench.results, key=lambda result: result.load):
        y += 24
        yield y, f'<text class="load" x="20" y="{y}">{_text(str(load))}</text>'
        y += 8
        first = y
        for result in results:
            yield from ((y, part) for part in _row(result, y))
            y += _ROW
        end = 20 + _NAME + _BAR
        yield y, f'<line class="ceiling" x1="{end}" x2="{end}" y1="{first}" y2="{y - 4}"/>'


def _row(result: Result, y: int) -> Iterator[str]:
    start, share = 20 + _NAME, min(result.share, 1.0)
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    kind = "beside" if result.against is None and "PyTorch" in result.name else "bar"
    yield f'<text x="20" y="{y + 16}">{_text(f"{result.name}, {threads}")}</text>'
    yield f'<rect class="rail" x="{start}" y="{y + 3}" width="{_BAR}" height="{_ROW - 9}" rx="2"/>'
    yield (
        f'<rect class="{kind}" x="{start}" y="{y + 3}" width="{max(share * _BAR, 2):.1f}" '
        f'height="{_ROW - 9}" rx="2"/>'
    )
    text = (
        f"{result.steps_per_second:,.0f} steps/s, {result.share:.0%}, "
        f"p99 {result.times.latency(0.99) * 1e6:,.0f} us"
    )
    yield f'<text x="{start + _BAR + 12}" y="{y + 16}">{_text(text)}</text>'


def _text(text: str) -> str:
    return saxutils.escape(printable(text))
