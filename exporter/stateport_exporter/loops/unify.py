# SPDX-License-Identifier: Apache-2.0
"""One program for any number of steps, from two traces of different lengths."""

from __future__ import annotations

from typing import Any

from ..errors import ExportError
from ..network.program import LinearInTime, Op, Program, Slice
from .trace import Unrolled


def unify(short: Unrolled, long: Unrolled, times: tuple[int, int]) -> Program:
    """The program that both traces are runs of.

    A number that differs between the traces becomes a multiple of the number of time steps, plus
    an offset. `times` are the numbers of time steps of both traces.

    Raises:
        ExportError: the traces differ in more than such numbers.
    """
    try:
        if len(short.ops) != len(long.ops) or short.structure != long.structure:
            raise _DifferenceError
        pairs = zip(short.ops, long.ops, strict=True)
        ops = tuple(_unify_operations(first, second, times) for first, second in pairs)
        outputs = _unify_operands(short.outputs, long.outputs, times)
    except _DifferenceError:
        raise _refusal(short, long) from None
    return Program(short.inputs, ops, outputs, short.structure)


class _DifferenceError(Exception):
    """The traces are no runs of one program."""


def _unify_operations(short: Op, long: Op, times: tuple[int, int]) -> Op:
    """One operation for both traces.

    Raises:
        _DifferenceError: they call different functions.
    """
    names = [name for name, _ in short.kwargs]
    if short.target is not long.target or names != [name for name, _ in long.kwargs]:
        raise _DifferenceError

    kwargs = _unify_operands(short.kwargs, long.kwargs, times)
    args = _unify_operands(short.args, long.args, times)
    return Op(short.result, short.target, args, kwargs, short.path)


def _unify_operands(short: Any, long: Any, times: tuple[int, int]) -> Any:
    """One operand for both traces.

    Raises:
        _DifferenceError: there is none.
    """
    if type(short) is not type(long):
        raise _DifferenceError

    if isinstance(short, tuple):
        return _unify_tuples(short, long, times)
    if isinstance(short, Slice):
        return _unify_slices(short, long, times)
    if short == long:
        return short
    if type(short) is int:
        return _unify_numbers(short, long, times)
    raise _DifferenceError


def _unify_tuples(
    short: tuple[Any, ...], long: tuple[Any, ...], times: tuple[int, int]
) -> tuple[Any, ...]:
    if len(short) != len(long):
        raise _DifferenceError

    pairs = zip(short, long, strict=True)
    return tuple(_unify_operands(first, second, times) for first, second in pairs)


def _unify_slices(short: Slice, long: Slice, times: tuple[int, int]) -> Slice:
    if (short.dim, short.keep) != (long.dim, long.keep):
        raise _DifferenceError
    source = _unify_operands(short.source, long.source, times)
    index = _unify_operands(short.index, long.index, times)
    return Slice(source, short.dim, index, short.keep)


def _unify_numbers(short: int, long: int, times: tuple[int, int]) -> LinearInTime:
    factor, rest = divmod(long - short, times[1] - times[0])
    if rest != 0:
        raise _DifferenceError
    return LinearInTime(factor, short - factor * times[0])


def _refusal(short: Unrolled, long: Unrolled) -> ExportError:
    """Names the module of the first operation in which the traces differ."""
    path = _path_of_difference(short, long)
    where = f"the loop in {path!r}" if path else "its loop over time"
    return ExportError(
        f"{where} does not do the same in every step (another first step, a condition on the "
        "number of the step, or a result that is put together in an unknown way)"
    )


def _path_of_difference(short: Unrolled, long: Unrolled) -> str:
    for first, second in zip(short.ops, long.ops, strict=False):
        if first.target is not second.target:
            return first.path or second.path
    return ""
