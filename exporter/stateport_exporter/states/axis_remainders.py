# SPDX-License-Identifier: Apache-2.0
"""Axes with remainders, as `Mod(time, 3)` in PyTorch's words, in those of a contract.

A contract has +, -, * and // alone, so a size can be computed before a call. A remainder is what a
division leaves: `time - 3*(time//3)`.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any, Final

import sympy
from sympy.printing.str import StrPrinter

_REMAINDERS: Final = ("Mod", "PythonMod")
_OPERATIONS: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: lambda a, b: sympy.floor(a / b),
}


class _UnknownError(Exception):
    """An expression has something that is not known here."""


def without_remainders(axis: int | str) -> int | str:
    """The same axis in the words of a contract, or as it is where that cannot be.

    "(time - (Mod(time, 3)))//3" becomes "time//3".
    """
    if isinstance(axis, int) or not any(name in axis for name in _REMAINDERS):
        return axis
    try:
        size = _read(ast.parse(axis, mode="eval").body)
        return str(_Printer().doprint(size.replace(sympy.floor, _floor)))
    except (_UnknownError, SyntaxError):
        return axis


def _read(node: ast.expr) -> Any:
    """An expression of PyTorch's for SymPy."""
    match node:
        case ast.Constant(value=int(number)):
            return sympy.Integer(number)
        case ast.Name(id=name):
            return sympy.Symbol(name, integer=True, positive=True)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_read(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_read(left), _read(right))
        case ast.Call(func=ast.Name(id=name), args=[size, divisor]) if name in _REMAINDERS:
            value, by = _read(size), _read(divisor)
            return value - by * sympy.floor(value / by)
    raise _UnknownError


def _floor(size: Any) -> Any:
    """A division that is rounded down; one of a negative size, as its opposite rounded up."""
    if size.could_extract_minus_sign():
        return -sympy.ceiling(-size)
    return sympy.floor(size)


class _Printer(StrPrinter):  # type: ignore[misc]
    """Writes divisions that are rounded as //."""

    def _print_floor(self, expression: Any) -> str:
        size, divisor = sympy.fraction(sympy.together(expression.args[0]))
        return self._division(size, divisor)

    def _print_ceiling(self, expression: Any) -> str:
        size, divisor = sympy.fraction(sympy.together(expression.args[0]))
        return self._division(size + divisor - 1, divisor)

    def _print_Mul(self, expression: Any) -> str:  # noqa: N802
        # The usual printer writes no brackets around a function.
        sign, factors = "", [*expression.args]
        if factors[0] == -1:
            sign, factors = "-", factors[1:]
        return sign + "*".join(map(self._factor, factors))

    def _factor(self, factor: Any) -> str:
        text = self.doprint(factor)
        return text if factor.is_Atom else f"({text})"

    def _division(self, size: Any, divisor: Any) -> str:
        if not (size.is_Atom or size.is_Add) or not divisor.is_Integer:
            raise _UnknownError
        return f"{self._factor(size)}//{divisor}"
