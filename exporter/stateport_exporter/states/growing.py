# SPDX-License-Identifier: Apache-2.0
"""Caches that grow with every call, as the keys and values of all former steps do.

A state keeps its size. A cache that grows is refused, unless the caller wants it as an ordinary
input and output.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from stateport.axes import names_in, resolve
from stateport.contract import describe

from ..errors import ExportError
from ..graph.dataflow import axes, behind, dtype_of, targets
from .declared import Declared, described_result
from .names import Path

#: The sizes at which an axis has to be larger in the result than in the argument.
_SIZES: Final = (1, 500)


@dataclass(frozen=True)
class GrowingCache:
    """An argument that a result holds whole, with more behind or before it.

    Attributes:
        name: the argument's name.
        argument: the argument.
        position: the position of the result.
        result: the result.
        axis: the axis along which it grows.
    """

    name: str
    argument: ir.Value
    position: int
    result: ir.Value
    axis: int


class GrowingCacheError(ExportError):
    """An argument grows with every call, and the caller did not say that it is no state."""


def growing_caches(graph: ir.Graph, arguments: Sequence[Path]) -> list[GrowingCache]:
    """The caches among the arguments; the first argument is what the network is fed."""
    named = [*zip(arguments, graph.inputs, strict=False)]
    fed = {value for path, value in named if path[0] == arguments[0][0]}

    caches: list[GrowingCache] = []
    for path, value in named:
        if value not in fed:
            caches += _caches_of(".".join(path), value, graph, fed)
    return caches


def _caches_of(
    name: str, argument: ir.Value, graph: ir.Graph, fed: Collection[ir.Value]
) -> Iterator[GrowingCache]:
    """The cache that an argument is: what is added to it is computed from what is fed."""
    for result in targets(graph, argument):
        axis = _axis_that_grows(argument, result)
        if axis is not None and any(value in fed for value in behind(result)):
            yield GrowingCache(name, argument, graph.outputs.index(result), result, axis)
            return


def _axis_that_grows(argument: ir.Value, result: ir.Value) -> int | None:
    """The only axis in which two values differ, if it is larger in the result at every size."""
    before, after = axes(argument), axes(result)
    if len(before) != len(after) or argument.dtype != result.dtype:
        return None

    differing = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    if len(differing) != 1 or not _is_larger(before[differing[0]], after[differing[0]]):
        return None
    return differing[0]


def _is_larger(name: str, expression: str) -> bool:
    """Whether an expression gives more than the axis that it is computed from, by as much."""
    try:
        names = names_in(expression)
        growths = {_value(expression, names, name, size) - size for size in _SIZES}
    except KeyError:  # no expression, or one of other operations
        return False
    return name in names and len(growths) == 1 and growths.pop() > 0


def _value(expression: str, names: frozenset[str], name: str, size: int) -> int:
    [value] = resolve((expression,), {**dict.fromkeys(names, 1), name: size})
    return value


def check_growing(
    caches: Sequence[GrowingCache], results: Sequence[Path], declared: Declared
) -> None:
    """Refuses caches that grow, but for those of which the caller says that they are no states.

    Raises:
        GrowingCacheError: with the argument and the result, and what to do.
    """
    undeclared = [cache for cache in caches if not _is_left_alone(cache, declared)]
    if not undeclared:
        return

    cache = undeclared[0]
    argument, result = (_described(value) for value in (cache.argument, cache.result))
    names = [each.name for each in caches]
    options = " ".join(f"--no-state {name}" for name in names)
    raise GrowingCacheError(
        f"The argument {cache.name!r} grows with every call: it is {argument}, and "
        f"{described_result(cache.position, results[cache.position])}, which is to be its next "
        f"value, is {result}. A state keeps its size. Let forward return the last entries along "
        f"axis {cache.axis} alone, and hide those that are not filled yet. To have ordinary inputs "
        f"and outputs instead, pass states={dict.fromkeys(names)} ({options})."
    )


def _is_left_alone(cache: GrowingCache, declared: Declared) -> bool:
    """Whether the caller says that a cache is no state."""
    names = (cache.name, cache.name.replace(".", "_"))
    return any(declared.get(name, "") is None for name in names)


def why_growing(caches: Sequence[GrowingCache]) -> str | None:
    """Why a network with such caches does not stream; None where it has none."""
    if not caches:
        return None
    names = " and ".join(cache.name for cache in caches)
    return f"{names} {'grow' if len(caches) > 1 else 'grows'} with every call, and no state does"


def _described(value: ir.Value) -> str:
    return describe(dtype_of(value), axes(value))
