# SPDX-License-Identifier: Apache-2.0
"""Values of a trace that may be a recurrence, y[t] = a[t] y[t - 1] + b[t], by what they are.

Real numbers are one value each, and complex ones two: their real and their imaginary part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..network.program import Ref

#: The values of a trace that are tensors of floats, in the order in which they are computed.
Values = Mapping[Ref, Tensor]
#: How many values of the same shape may lie between both parts of a complex result.
_APART: Final = 6


@dataclass(frozen=True)
class Recurrence:
    """y[t] = a[t] y[t - 1] + b[t] along an axis, which all three have.

    Each is one value, or two of them: the parts of complex numbers.
    """

    factor: tuple[Ref, ...]
    summand: tuple[Ref, ...]
    result: tuple[Ref, ...]
    axis: int


def recurrences_of(values: Values, mixed: Collection[int], time: int) -> Iterator[Recurrence]:
    """The recurrences whose result may be one of the `mixed` values, real ones first.

    Of values that are the same the last one comes first, which has gone through all that precedes
    the rounds.
    """
    results = []
    for place in values:
        if place.value in mixed:
            results.append(place)

    for count, find in _KINDS.items():
        for last in results:
            for axis, size in enumerate(values[last].shape):
                if size != time or size < 3:
                    continue
                for result in _results_with(last, results, values, count):
                    yield from find(result, axis, values)


def _results_with(
    last: Ref, results: Sequence[Ref], values: Values, count: int
) -> Iterator[tuple[Ref, ...]]:
    """A result alone, or with one of those shortly before it, in both orders."""
    if count == 1:
        yield (last,)
        return

    alike = [place for place in results if values[place].shape == values[last].shape]
    position = alike.index(last)
    for other in alike[max(0, position - _APART) : position]:
        yield other, last
        yield last, other


def _real(result: tuple[Ref, ...], axis: int, values: Values) -> Iterator[Recurrence]:
    [place] = result
    y = values[place]
    steps = y.shape[axis]
    if not y.isfinite().all():
        return

    before = _before(place, values)
    for summand in _summands(place, before, axis, values):
        later = y.narrow(axis, 1, steps - 1)
        for factor in _factors(y, before, axis, values):
            a, b = values[factor], values[summand]
            computed = a.narrow(axis, 1, steps - 1) * y.narrow(axis, 0, steps - 1)
            if _is_close(computed + b.narrow(axis, 1, steps - 1), later):
                yield Recurrence((factor,), (summand,), result, axis)


def _complex(result: tuple[Ref, ...], axis: int, values: Values) -> Iterator[Recurrence]:
    y = torch.complex(*(values[part] for part in result))
    steps = y.shape[axis]
    # The equation is solved for a.
    if not (y.isfinite().all() and y.abs().min() > 0):
        return

    before = _before(min(result, key=lambda part: part.value), values)
    summands = ([*_summands(part, before, axis, values)] for part in result)
    for summand in itertools.product(*summands):
        b = torch.complex(*(values[part] for part in summand))
        later = y.narrow(axis, 1, steps - 1) - b.narrow(axis, 1, steps - 1)
        a = later / y.narrow(axis, 0, steps - 1)
        factors = [[*_equal_to(part, y, before, axis, values)] for part in (a.real, a.imag)]
        for factor in itertools.product(*factors):
            yield Recurrence(factor, summand, result, axis)


#: How many values a number is, and what finds recurrences of such numbers.
_KINDS: Final[Mapping[int, Callable[..., Iterator[Recurrence]]]] = {1: _real, 2: _complex}


def _before(result: Ref, values: Values) -> list[Ref]:
    """The values that are computed before a result, the last one first."""
    earlier = itertools.takewhile(lambda place: place.value != result.value, values)
    return [*earlier][::-1]


def _summands(part: Ref, before: Sequence[Ref], axis: int, values: Values) -> Iterator[Ref]:
    """The values that begin with what a result begins with, and that are not the result itself."""
    y = values[part]
    for place in before:
        b = values[place]
        if b.shape != y.shape or not _is_close(y.select(axis, 0), b.select(axis, 0)):
            continue
        if _is_close(y, b):
            return  # the result is the summand itself, moved
        yield place


def _factors(y: Tensor, before: Sequence[Ref], axis: int, values: Values) -> Iterator[Ref]:
    """The values that can be expanded to the shape of a result, with its number of steps."""
    for place in before:
        a = values[place]
        if a.ndim == y.ndim and a.shape[axis] == y.shape[axis] and _expands(a, y):
            yield place


def _equal_to(
    wanted: Tensor, y: Tensor, before: Sequence[Ref], axis: int, values: Values
) -> Iterator[Ref]:
    """The factors that are these numbers from the second step on."""
    for place in _factors(y, before, axis, values):
        later = values[place].narrow(axis, 1, y.shape[axis] - 1)
        if _is_close(later.expand_as(wanted), wanted):
            yield place


def _expands(tensor: Tensor, other: Tensor) -> bool:
    """Whether a tensor can be expanded to the shape of another one."""
    sizes = zip(tensor.shape, other.shape, strict=True)
    return all(size in (1, wanted) for size, wanted in sizes)


def _is_close(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-9, atol=1e-12)
