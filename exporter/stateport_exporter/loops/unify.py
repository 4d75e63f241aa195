"""One program for any number of steps, from two traces of different lengths."""

from __future__ import annotations

from typing import Any

from ..errors import ExportError
from ..network.program import LinearInTime, Op, Program, Slice
from .unroll import Unrolled


def unify(short: Unrolled, long: Unrolled, times: tuple[int, int]) -> Program:
    """The program that both traces are; a number that differs is a multiple of time and a rest.

    Raises:
        ExportError: the traces differ in more than such numbers.
    """
    if len(short.ops) != len(long.ops) or short.structure != long.structure:
        raise _unlike(short, long)

    def same(a: Any, b: Any) -> Any:
        if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
            return tuple(same(x, y) for x, y in zip(a, b, strict=True))
        if isinstance(a, Slice) and isinstance(b, Slice) and (a.dim, a.keep) == (b.dim, b.keep):
            return Slice(same(a.source, b.source), a.dim, same(a.index, b.index), a.keep)
        if type(a) is type(b) and a == b:
            return a
        if type(a) is int and type(b) is int:
            factor, rest = divmod(b - a, times[1] - times[0])
            if rest == 0:
                return LinearInTime(factor, a - factor * times[0])
        raise _unlike(short, long)

    ops = []
    for one, other in zip(short.ops, long.ops, strict=True):
        if one.target is not other.target or [n for n, _ in one.kwargs] != [
            n for n, _ in other.kwargs
        ]:
            raise _unlike(short, long)
        kwargs = tuple(
            (name, same(a, b)) for (name, a), (_, b) in zip(one.kwargs, other.kwargs, strict=True)
        )
        ops.append(Op(one.result, one.target, same(one.args, other.args), kwargs, one.path))
    outputs = same(short.outputs, long.outputs)
    return Program(short.inputs, tuple(ops), outputs, short.structure)


def _unlike(short: Unrolled, long: Unrolled) -> ExportError:
    """Names the module where the two traces part."""
    pairs = zip(short.ops, long.ops, strict=False)
    at = next(
        (one.path or other.path for one, other in pairs if one.target is not other.target), ""
    )
    where = f"the loop in {at!r}" if at else "its loop over time"
    return ExportError(
        f"{where} does not do the same in every step (another first step, a condition on the "
        "number of the step, or a result that is put together in an unknown way)"
    )
