# SPDX-License-Identifier: Apache-2.0
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
#: The most powers of ten in a chart; smaller errors are drawn at its lower edge.
_DECADES: Final = 12
#: The number of marks on a line.
_MARKS: Final = 5
_COLOURS: Final = 6
#: The shapes of marks, which distinguish lines where colours do not: class, x, y.
_SHAPES: Final = (
    '<circle class="{0}" cx="{1}" cy="{2}" r="3.4"/>',
    '<path class="{0}" d="M{1} {2}m-3.2-3.2h6.4v6.4h-6.4z"/>',
    '<path class="{0}" d="M{1} {2}m0-4.4 4.2 7.4h-8.4z"/>',
    '<path class="{0}" d="M{1} {2}m0-4.6 4.6 4.6-4.6 4.6-4.6-4.6z"/>',
    '<path class="{0}" d="M{1} {2}m0 4.4 4.2-7.4h-8.4z"/>',
)


class Line(NamedTuple):
    """One engine's error along a case; `number` is the engine's row in the matrix."""

    number: int
    engine: str
    bound: str
    curve: ErrorCurve

    @property
    def by_floor(self) -> bool:
        """Whether the engine is judged by multiples of the floor."""
        return self.bound == str(Floor())


class _Plane(NamedTuple):
    """The coordinates of steps, from 0 to `last`, and of errors, from 10**low to 10**high.

    If `zero`, there is one more decade below for errors of 0; if `infinite`, one above for
    infinite errors.
    """

    last: int
    low: int
    high: int
    zero: bool
    infinite: bool

    def x(self, step: float) -> float:
        """The x coordinate of a step."""
        return _LEFT + (_RIGHT - _LEFT) * step / max(self.last, 1)

    def y(self, value: float) -> float:
        """The y coordinate of an error."""
        bottom = self.low - self.zero
        top = self.high + self.infinite
        if not math.isfinite(value):
            power = float(top)
        elif value > 0:
            power = max(math.log10(value), self.low)
        else:
            power = bottom
        return _BOTTOM - (_BOTTOM - _TOP) * (power - bottom) / (top - bottom)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """The errors that have a line of the grid, and their text."""
        if self.infinite:
            yield math.inf, "inf"

        every = math.ceil((self.high - self.low) / _TICKS)
        for power in range(self.high, self.low - 1, -every):
            yield 10.0**power, f"1e{power}"

        if self.zero:
            yield 0.0, "0"


def lines(matrix: Matrix) -> dict[tuple[str, str], list[Line]]:
    """Every engine's line, by output and by the longest case with a curve of that output."""
    longest: dict[tuple[str, str], list[Line]] = {}
    for output, cases in _lines_of_cases(matrix).items():
        case = max(cases, key=lambda case: cases[case][0].curve.steps[-1])
        longest[output, case] = cases[case]
    return longest


def _lines_of_cases(matrix: Matrix) -> dict[str, dict[str, list[Line]]]:
    """By output and case, the line of every engine that has a curve there."""
    lines_of: dict[str, dict[str, list[Line]]] = {}
    for number, row in enumerate(matrix.rows):
        if row.report is None:
            continue

        for measurement in row.report.measurements:
            curve = measurement.curve
            if curve is not None and len(curve.steps) > 1:
                cases = lines_of.setdefault(measurement.output, {})
                line = Line(number, str(row.choice), row.report.bound, curve)
                cases.setdefault(measurement.case, []).append(line)
    return lines_of


def legend(drawn: Iterable[Line]) -> str:
    """The names of the lines, as the items of a list."""
    engines = {line.number: line for line in drawn}
    items = [_legend_item("floor", "the floor: what float32 itself loses")]
    if any(line.by_floor for line in engines.values()):
        items.append(_legend_item("bound", f"allowed: {Floor()}"))

    for number, line in sorted(engines.items()):
        bound = "" if line.by_floor else f" (allowed: {line.bound})"
        items.append(_legend_item(_colour(number), f"{line.engine}{bound}", _mark(number, 16, 7)))
    return "".join(items)


def _legend_item(style: str, text: str, mark: str = "") -> str:
    return (
        f'<li><svg viewBox="0 0 32 14" aria-hidden="true"><path class="line {style}" d="M1 7H31"/>'
        f"{mark}</svg><span>{escape(printable(text))}</span></li>"
    )


def chart(output: str, case: str, drawn: Sequence[Line]) -> str:
    """The errors of one output along a case."""
    plane = _plane(drawn)
    label = escape(printable(f"Error of {output} along {case}"))
    parts = [f'<svg viewBox="{_VIEW}" role="img" aria-label="{label}">', *_draw_axes(plane)]

    curve = drawn[0].curve
    floors = drawn[0].curve.floors
    if any(floors):
        if any(line.by_floor for line in drawn):
            allowed = [FLOOR_FACTOR * floor for floor in floors]
            parts.append(_path("bound", plane, curve.steps, allowed))
        parts.append(_path("floor", plane, curve.steps, floors))

    for line in drawn:
        steps, errors = line.curve.steps, line.curve.errors
        parts.append(_path(_colour(line.number), plane, steps, errors))
        for point in _marked_points(line.number, len(steps)):
            parts.append(_mark(line.number, plane.x(steps[point]), plane.y(errors[point])))

    return "".join([*parts, "</svg>"])


def _plane(drawn: Sequence[Line]) -> _Plane:
    """The plane that has room for all errors, floors and bounds."""
    errors: list[float] = []
    floors: list[float] = []
    for line in drawn:
        errors += line.curve.errors
        floors += line.curve.floors

    values = [*errors, *floors, *(FLOOR_FACTOR * floor for floor in floors)]

    positive = [value for value in values if 0 < value < math.inf] or [1.0]
    high = math.ceil(math.log10(max(positive)))
    low = min(math.floor(math.log10(min(positive))), high - 1)
    return _Plane(
        last=max(line.curve.steps[-1] for line in drawn),
        low=max(low, high - _DECADES),
        high=high,
        zero=0.0 in values,
        infinite=not all(map(math.isfinite, errors)),
    )


def _draw_axes(plane: _Plane) -> Iterator[str]:
    """Grid lines with their numbers, and the names of the axes."""
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
    """0 and up to five round numbers above it, the largest at most `last`."""
    size = 10 ** max(len(str(last)) - 1, 0)
    distances = (size // 5, size // 2, size, 2 * size)
    every = next(distance for distance in distances if distance and last <= 5 * distance)
    return range(0, last + 1, every)


def _path(style: str, plane: _Plane, steps: Iterable[int], values: Iterable[float]) -> str:
    points = zip(steps, values, strict=True)
    coordinates = "L".join(f"{plane.x(step):.1f} {plane.y(value):.1f}" for step, value in points)
    return f'<path class="line {style}" d="M{coordinates}"/>'


def _mark(number: int, x: float, y: float) -> str:
    # There are five shapes and six colours, so that a pair of both repeats after thirty lines.
    shape = _SHAPES[number % len(_SHAPES)]
    return shape.format(f"mark {_colour(number)}", f"{x:.1f}", f"{y:.1f}")


def _marked_points(number: int, points: int) -> range:
    """The points of a line that have a mark: different ones on each line, as lines may overlap."""
    every = max(points // _MARKS, 1)
    first = number * every // _COLOURS % every
    return range(first, points, every)


def _colour(number: int) -> str:
    return f"colour{number % _COLOURS}"
