"""Numbers that know what they would be elsewhere: in a later step, in a later call.

Such a number is a Python integer or float with its value here, and beside it what it would be at
every point of a grid: of steps, or of calls. Arithmetic carries both along. Where forward compares
it, the comparison's outcome all over the grid is kept, so that a threshold which lies far beyond
what was run is seen where it is written.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from ..blame import Line, author_line

Array = NDArray[Any]

#: What a number may be elsewhere of which nothing is known.
ANYTHING: Final = np.nan
#: Up to here every whole number is a point of the grid; beyond it stand powers of two.
DENSE: Final = 1 << 14
GRID: Final[Array] = np.concatenate(
    [np.arange(1.0, DENSE + 1), 2.0 ** np.arange(math.log2(DENSE) + 1, 41)]
)


@dataclass(frozen=True)
class Decision:
    """A comparison that forward made: how it comes out all over the grid, and where it stands.

    It is not `known` how one comes out whose number may be anything.
    """

    outcomes: Array
    line: Line | None
    known: bool = True


@dataclass
class Watch:
    """What forward decided by numbers that are foreseen."""

    decisions: list[Decision] = field(default_factory=list)

    def decide(self, outcomes: Array, *, known: bool = True) -> None:
        """Keeps a comparison, unless it comes out alike everywhere."""
        if not known or (outcomes != outcomes[0]).any():
            self.decisions.append(Decision(outcomes, author_line(), known))


class _Foreseen:
    """What the integers and floats have in common."""

    elsewhere: Array
    watch: Watch

    @property
    def is_unknown(self) -> bool:
        """Whether it may be anything elsewhere."""
        return bool(np.isnan(self.elsewhere).all())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a number that is foreseen stays where it is")

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __bool__(self) -> bool:
        self.watch.decide(self.elsewhere != 0, known=not self.is_unknown)
        return bool(_plain(self) != 0)

    def __hash__(self) -> int:
        return hash(_plain(self))


class ForeseenInt(_Foreseen, int):
    """An integer that is foreseen."""


class ForeseenFloat(_Foreseen, float):
    """A float that is foreseen."""


def foresee(value: float, elsewhere: Array, watch: Watch) -> Any:
    """The number with what it would be elsewhere; what is no number stays as it is."""
    if type(value) is int:
        number: Any = int.__new__(ForeseenInt, value)
    elif type(value) is float:
        number = float.__new__(ForeseenFloat, value)
    else:
        return value
    number.elsewhere, number.watch = np.broadcast_to(elsewhere, GRID.shape), watch
    return number


def is_foreseen(value: object) -> bool:
    """Whether a number is foreseen."""
    return isinstance(value, _Foreseen)


def plain(value: Any) -> Any:
    """The number alone."""
    return _plain(value) if isinstance(value, _Foreseen) else value


def _plain(value: Any) -> Any:
    return int.__int__(value) if isinstance(value, int) else float.__float__(value)


def _elsewhere(value: Any) -> Any:
    return value.elsewhere if isinstance(value, _Foreseen) else value


def _arithmetic(operation: Callable[..., Any], *, swapped: bool = False) -> Callable[..., Any]:
    def compute(self: Any, *others: Any) -> Any:
        operands = (*others, self) if swapped else (self, *others)
        if isinstance(others[0] if others else None, _SYMBOLIC):
            return operation(*map(plain, operands))  # which PyTorch follows by itself
        if not all(type(other) in _NUMBERS for other in others):
            return NotImplemented
        value = operation(*map(plain, operands))
        with np.errstate(all="ignore"):
            try:
                elsewhere = operation(*map(_elsewhere, operands))
            except (ArithmeticError, TypeError, ValueError):
                elsewhere = np.full(GRID.shape, np.nan)
        return foresee(value, elsewhere, self.watch)

    return compute


def _bits(operation: Callable[..., Any], *, swapped: bool = False) -> Callable[..., Any]:
    """As `_arithmetic`, for what whole numbers alone have."""

    def whole(*operands: Any) -> Any:
        arrays = any(isinstance(operand, np.ndarray) for operand in operands)
        return operation(*(np.int64(o) if arrays else o for o in operands))

    return _arithmetic(whole, swapped=swapped)


def _rounding(of_number: Callable[..., Any], of_array: Callable[..., Any]) -> Callable[..., Any]:
    def compute(self: Any, *digits: Any) -> Any:
        value = of_number(_plain(self), *digits)
        return foresee(value, of_array(self.elsewhere, *digits), self.watch)

    return compute


def _comparison(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def compare(self: Any, other: Any) -> Any:
        if isinstance(other, _SYMBOLIC):
            return operation(_plain(self), other)
        if type(other) not in _NUMBERS:
            return NotImplemented
        known = not (self.is_unknown or (isinstance(other, _Foreseen) and other.is_unknown))
        self.watch.decide(np.asarray(operation(self.elsewhere, _elsewhere(other))), known=known)
        return operation(_plain(self), plain(other))

    return compare


_NUMBERS: Final = (int, float, bool, ForeseenInt, ForeseenFloat)
_SYMBOLIC: Final = (torch.SymInt, torch.SymFloat)
_ROUND: Final[dict[str, tuple[Callable[..., Any], Callable[..., Any]]]] = {
    "__floor__": (math.floor, np.floor),
    "__ceil__": (math.ceil, np.ceil),
    "__trunc__": (math.trunc, np.trunc),
    "__round__": (round, np.round),
    "__neg__": (operator.neg, operator.neg),
    "__pos__": (operator.pos, operator.pos),
    "__abs__": (abs, abs),
}
_TWO: Final = ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow")
_WHOLE: Final = {
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "lshift": operator.lshift,
    "rshift": operator.rshift,
}


def _equip() -> None:
    """Gives the numbers their operators."""
    setattr(_Foreseen, "__divmod__", lambda a, b: (a // b, a % b))  # noqa: B010
    setattr(_Foreseen, "__rdivmod__", lambda b, a: (a // b, a % b))  # noqa: B010
    for name in _TWO:
        operation = getattr(operator, name)
        setattr(_Foreseen, f"__{name}__", _arithmetic(operation))
        setattr(_Foreseen, f"__r{name}__", _arithmetic(operation, swapped=True))
    for name, operation in _WHOLE.items():
        setattr(ForeseenInt, f"__{name}__", _bits(operation))
        setattr(ForeseenInt, f"__r{name}__", _bits(operation, swapped=True))
    for name, (of_number, of_array) in _ROUND.items():
        setattr(_Foreseen, name, _rounding(of_number, of_array))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(_Foreseen, f"__{name}__", _comparison(getattr(operator, name)))


_equip()
