"""Errors along a long case, drawn as SVG: a chart per output, a line per engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Final, NamedTuple

from ...printable import printable
from ..bounds import FLOOR_FACTOR, Floor
from ..engine_report import ErrorCurve
from ..matrix import Matrix

_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 366, 12, 206
_VIEW: Final = "0 0 384 246"
_TICKS: Final = 5
#: Of so many powers of ten, the largest, is a chart at most.
_DECADES: Final = 12
#: So many marks are on a line.
_MARKS: Final = 5
_COLOURS: Final = 6
#: What tells lines apart where colours do not, drawn around (0, 0).
_SHAPES: Final = (
    '<circle class="{0}" cx="{1}" cy="{2}" r="3.4"/>',
    '<path class="{0}" d="M{1} {2}m-3.2-3.2h6.4v6.4h-6.4z"/>',
    '<path class="{0}" d="M{1} {2}m0-4.4 4.2 7.4h-8.4z"/>',
    '<path class="{0}" d="M{1} {2}m0-4.6 4.6 4.6-4.6 4.6-4.6-4.6z"/>',
    '<path class="{0}" d="M{1} {2}m0 4.4 4.2-7.4h-8.4z"/>',
)


class Line(NamedTuple):
    """One engine's error along a case; the number is that of the engine."""

    number: int
    engine: str
    bound: str
    curve: ErrorCurve

    @property
    def by_floor(self) -> bool:
        """Whether the engine is judged by multiples of the floor, and not by something else."""
        return self.bound == str(Floor())


class _Plane(NamedTuple):
    """Where steps and errors lie: powers of ten from `low` to `high`.

    Below and above them is room for 0 and for what is infinite, where either occurs.
    """

    last: int
    low: int
    high: int
    zero: bool
    infinite: bool

    def x(self, step: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * step / max(self.last, 1)

    def y(self, value: float) -> float:
        bottom, top = self.low - self.zero, self.high + self.infinite
        power = float(top)
        if math.isfinite(value):
            power = max(math.log10(value), self.low) if value > 0 else bottom
        return _BOTTOM - (_BOTTOM - _TOP) * (power - bottom) / (top - bottom)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """The errors that have a line of the grid, and their text."""
        if self.infinite:
            yield math.inf, "inf"
        for power in range(self.high, self.low - 1, -math.ceil((self.high - self.low) / _TICKS)):
            yield 10.0**power, f"1e{power}"
        if self.zero:
            yield 0.0, "0"


def lines(matrix: Matrix) -> dict[tuple[str, str], list[Line]]:
    """Every engine's line, by output and the longest case that has a curve of it."""
    found: dict[str, dict[str, list[Line]]] = {}
    for number, row in enumerate(matrix.rows):
        for one in row.report.measurements if row.report else ():
            if row.report and one.curve and len(one.curve.steps) > 1:
                line = Line(number, str(row.choice), row.report.bound, one.curve)
                found.setdefault(one.output, {}).setdefault(one.case, []).append(line)
    longest = {
        output: max(cases, key=lambda case: cases[case][0].curve.steps[-1])
        for output, cases in found.items()
    }
    return {(output, case): found[output][case] for output, case in longest.items()}


def legend(drawn: Iterable[Line]) -> str:
    """What the lines are, as a list."""
    engines = {line.number: line for line in drawn}
    items = [("floor", "the floor: what PyTorch itself loses in float32", "")]
    if any(line.by_floor for line in engines.values()):
        items.append(("bound", f"allowed: {Floor()}", ""))
    for number, line in sorted(engines.items()):
        other = "" if line.by_floor else f" (allowed: {line.bound})"
        items.append((_colour(number), f"{line.engine}{other}", _mark(number, 16, 7)))
    return "".join(
        f'<li><svg viewBox="0 0 32 14" aria-hidden="true"><path class="line {style}" d="M1 7H31"/>'
        f"{mark}</svg><span>{escape(printable(said))}</span></li>"
        for style, said, mark in items
    )


def chart(output: str, case: str, drawn: Sequence[Line]) -> str:
    """The errors of one output along a case."""
    plane = _plane(drawn)
    label = escape(printable(f"Error of {output} along {case}"))
    parts = [f'<svg viewBox="{_VIEW}" role="img" aria-label="{label}">', *_axes(plane)]
    curve, floors = drawn[0].curve, drawn[0].curve.floors
    if any(floors):
        if any(line.by_floor for line in drawn):
            allowed = [FLOOR_FACTOR * floor for floor in floors]
            parts.append(_path("bound", plane, curve.steps, allowed))
        parts.append(_path("floor", plane, curve.steps, floors))
    for line in drawn:
        steps, errors = line.curve.steps, line.curve.errors
        parts.append(_path(_colour(line.number), plane, steps, errors))
        for at in _marked(line.number, len(steps)):
            parts.append(_mark(line.number, plane.x(steps[at]), plane.y(errors[at])))
    return "".join([*parts, "</svg>"])


def _plane(drawn: Sequence[Line]) -> _Plane:
    errors = [error for line in drawn for error in line.curve.errors]
    floors = [floor for line in drawn for floor in line.curve.floors]
    values = [*errors, *floors, *(FLOOR_FACTOR * floor for floor in floors)]
    shown = [value for value in values if 0 < value < math.inf] or [1.0]
    high = math.ceil(math.log10(max(shown)))
    low = min(math.floor(math.log10(min(shown))), high - 1)
    return _Plane(
        last=max(line.curve.steps[-1] for line in drawn),
        low=max(low, high - _DECADES),
        high=high,
        zero=0.0 in values,
        infinite=not all(map(math.isfinite, errors)),
    )


def _axes(plane: _Plane) -> Iterator[str]:
    """Grid lines with their numbers, and what is on which axis."""
    for value, text in plane.ticks():
        y = plane.y(value)
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    for step in _round_steps(plane.last):
        x = plane.x(step)
        yield f'<path class="grid" d="M{x:.1f} {_TOP}V{_BOTTOM + 4}"/>'
        yield f'<text x="{x:.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{step}</text>'
    middle = (_LEFT + _RIGHT) / 2
    yield f'<text x="{middle}" y="{_BOTTOM + 36}" text-anchor="middle">step</text>'
    turned = f'transform="translate(10 {(_TOP + _BOTTOM) / 2}) rotate(-90)"'
    yield f'<text {turned} text-anchor="middle">error</text>'


def _round_steps(last: int) -> range:
    """0 and up to five round numbers above it."""
    size = 10 ** max(len(str(last)) - 1, 0)
    every = next(e for e in (size // 5, size // 2, size, 2 * size) if e and last <= 5 * e)
    return range(0, last + 1, every)


def _path(style: str, plane: _Plane, steps: Iterable[int], values: Iterable[float]) -> str:
    points = zip(steps, values, strict=True)
    way = "L".join(f"{plane.x(step):.1f} {plane.y(value):.1f}" for step, value in points)
    return f'<path class="line {style}" d="M{way}"/>'


def _mark(number: int, x: float, y: float) -> str:
    # The shapes are fewer than the colours, so that it is long until both come again.
    shape = _SHAPES[number % len(_SHAPES)]
    return shape.format(f"mark {_colour(number)}", f"{x:.1f}", f"{y:.1f}")


def _marked(number: int, points: int) -> range:
    """The points of a line that have a mark: others on each, as lines may lie on one another."""
    every = max(points // _MARKS, 1)
    return range(number * every // _COLOURS % every, points, every)


def _colour(number: int) -> str:
    return f"colour{number % _COLOURS}"
