"""Comparisons that forward makes, and the sizes from which on they come out the other way.

What is run at a few sizes says nothing of sizes at which forward would take another way. But every
way is taken by a comparison, and PyTorch knows each one of a size as an expression: `time > 1000`,
`Eq(Mod(time, 977), 0)`. Such an expression tells at which sizes it turns.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import sympy

from ..blame import Line
from .foreseen import DENSE, GRID, Array


@dataclass(frozen=True)
class Comparison:
    """A comparison of sizes: what it says at any of them, and the author's line that makes it.

    `axes` are those that it hangs on. `holds` takes a size, or an array of them, for each. `direct`
    says that the author's code itself makes it, and not PyTorch on its behalf. Where it turns again
    and again, as one of a remainder does, `most` turns are tried.
    """

    axes: frozenset[str]
    holds: Callable[[Mapping[str, Any]], Array]
    line: Line | None = None
    direct: bool = False
    most: int = 2


@dataclass(frozen=True)
class Turn:
    """Sizes at which a comparison comes out otherwise than before.

    `axis` is the one that has grown to `size`; `sizes` are those of all axes that matter.
    """

    axis: str
    size: int
    sizes: Mapping[str, int]
    line: Line | None

    @property
    def alone(self) -> bool:
        """Whether it hangs on one axis alone."""
        return len(self.sizes) == 1


def differs(comparison: Comparison, sizes: Mapping[str, int], usual: Mapping[str, int]) -> bool:
    """Whether it comes out at these sizes otherwise than at the usual ones."""
    return float(comparison.holds(sizes)) != float(comparison.holds(usual))


def turned(
    comparisons: Iterable[Comparison],
    usual: Mapping[str, int],
    tried: Iterable[tuple[int, int]],
    sizes: Mapping[str, int],
) -> list[Line]:
    """The author's lines that decide at these sizes otherwise than at all that are tried.

    `usual` are the sizes of axes that are none of these; `tried` are pairs of batch and time.
    """
    all_tried = [usual, *({**usual, "batch": batch, "time": time} for batch, time in tried)]
    lines = []
    for comparison in comparisons:
        before = {float(comparison.holds(each)) for each in all_tried}
        if float(comparison.holds({**usual, **sizes})) not in before:
            lines.append(comparison.line)
    return [line for line in dict.fromkeys(lines) if line is not None]


def turns(comparison: Comparison, tried: Mapping[str, tuple[int, ...]]) -> Iterator[Turn]:
    """The turns that the sizes which are tried anyway do not show.

    `tried` has the sizes of every axis that are tried, each with all those of the others.
    """
    for axis in sorted(comparison.axes):
        others = sorted(comparison.axes - {axis})
        for number in range(max((len(tried[name]) for name in others), default=1)):
            fixed = {name: tried[name][number % len(tried[name])] for name in others}
            outcomes = np.broadcast_to(comparison.holds({**fixed, axis: GRID}), GRID.shape)
            for size in itertools.islice(_unseen(outcomes, tried[axis]), comparison.most):
                if size > DENSE:
                    size = _first(comparison, fixed, axis, size // 2, size)
                sizes = {**fixed, axis: size}
                yield Turn(axis, size, sizes, comparison.line)


def _unseen(outcomes: Array, tried: tuple[int, ...]) -> Iterator[int]:
    """Where runs of equal outcomes begin that hold no size that is tried.

    The first run needs none: it begins at 1.
    """
    edges = np.flatnonzero(outcomes[1:] != outcomes[:-1]) + 1
    ends = [*edges[1:], len(outcomes)]
    for start, end in zip(edges, ends, strict=False):
        first, last = int(GRID[start]), int(GRID[end - 1])
        if not any(first <= size <= last for size in tried):
            yield first


def _first(
    comparison: Comparison, fixed: Mapping[str, int], axis: str, before: int, after: int
) -> int:
    """The first size behind `before` at which it comes out as at `after`."""
    outcome = comparison.holds({**fixed, axis: float(after)})
    while after - before > 1:
        middle = (before + after) // 2
        if comparison.holds({**fixed, axis: float(middle)}) == outcome:
            after = middle
        else:
            before = middle
    return after


def comparison_of(
    expression: Any,
    hint: Any,
    axes: Mapping[Any, str],
    line: Line | None = None,
    *,
    direct: bool = False,
) -> Comparison | None:
    """The comparison that an expression in PyTorch's symbols is; None where it is none.

    Args:
        expression: a relation, or a number that forward takes as it is at `hint`.
        hint: what it is at the sizes that were run.
        axes: the axis that each symbol is the size of.
        line: where it stands.
        direct: whether the author's code itself asks.
    """
    symbols: frozenset[Any] = getattr(expression, "free_symbols", frozenset())
    if not symbols or not symbols <= axes.keys():
        return None
    is_number = not isinstance(hint, bool | sympy.logic.boolalg.BooleanAtom)
    taken = float(hint) if is_number else None

    def holds(sizes: Mapping[str, Any]) -> Array:
        values = {symbol: sizes[axes[symbol]] for symbol in symbols}
        with np.errstate(all="ignore"):
            value = value_of(expression, values)
        return np.asarray(value == taken if is_number else value)

    try:
        outcomes = holds(dict.fromkeys(axes.values(), GRID))
    except KeyError:  # an operation of PyTorch's that is not known here
        return None
    if is_number and outcomes.sum() <= 1:
        return None  # the size itself: nothing is compared
    return Comparison(frozenset(axes[symbol] for symbol in symbols), holds, line, direct)


def switches(expression: Any) -> Iterator[Any]:
    """The comparisons inside an expression: the larger or smaller one of two."""
    for part in sympy.preorder_traversal(expression):
        if type(part).__name__ in ("Max", "Min"):
            for other in part.args[1:]:
                yield sympy.Le(part.args[0], other, evaluate=False)


def value_of(expression: Any, values: Mapping[Any, Any]) -> Any:
    """What an expression is for these values of its symbols; `KeyError` where nobody knows."""
    if expression in values:
        return values[expression]
    if not expression.args:
        return bool(expression) if expression in (sympy.true, sympy.false) else float(expression)
    operands = [value_of(operand, values) for operand in expression.args]
    return _OPERATIONS[type(expression).__name__](*operands)


def _every(operation: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda *operands: functools.reduce(operation, operands)


#: What PyTorch writes sizes with: sympy's operations and its own, by the names of their classes.
_OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    "Add": _every(operator.add),
    "Mul": _every(operator.mul),
    "Pow": np.power,
    "PowByNatural": np.power,
    "FloatPow": np.power,
    "Max": _every(np.maximum),
    "Min": _every(np.minimum),
    "Mod": np.mod,
    "PythonMod": np.mod,
    "FloorDiv": np.floor_divide,
    "CleanDiv": np.floor_divide,
    "CeilDiv": lambda a, b: -np.floor_divide(-a, b),
    "IntTrueDiv": np.true_divide,
    "FloatTrueDiv": np.true_divide,
    "ToFloat": lambda x: x,
    "Identity": lambda x: x,
    "TruncToInt": np.trunc,
    "TruncToFloat": np.trunc,
    "FloorToInt": np.floor,
    "CeilToInt": np.ceil,
    "RoundToInt": np.round,
    "Abs": np.abs,
    "Where": np.where,
    "OpaqueUnaryFn_sqrt": np.sqrt,
    "OpaqueUnaryFn_log2": np.log2,
    "And": _every(np.logical_and),
    "Or": _every(np.logical_or),
    "Not": np.logical_not,
    "Equality": np.equal,
    "Unequality": np.not_equal,
    "StrictGreaterThan": np.greater,
    "GreaterThan": np.greater_equal,
    "StrictLessThan": np.less,
    "LessThan": np.less_equal,
}
