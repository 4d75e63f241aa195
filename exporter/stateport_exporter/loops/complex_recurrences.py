# SPDX-License-Identifier: Apache-2.0
"""Parallel scans of complex numbers, whose real and imaginary parts are two values each.

y[t] = a[t] y[t - 1] + b[t], as in `recurrences`, but all three are pairs of values of a trace. For
two values that may be y and two that may be b, the equation gives a, which is then looked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..network.program import Body, Op, Program, Ref
from ..network.scan import scan
from .recurrences import (
    SCALES,
    behind_rounds,
    earlier,
    expands,
    floats_of,
    is_close,
    numbers_of_all_kinds,
    stepwise,
)
from .regions import region, replace_values, values_of
from .trace import OpWriter, TensorMeta, Unrolled, read_size

_aten: Final = torch.ops.aten

#: Of a state (0 and 1), and of a factor (2 and 3) and a summand (4 and 5) of this step.
_STEP: Final = Body(
    Program(
        6,
        (
            Op(6, _aten.mul.Tensor, (Ref(2), Ref(0))),
            Op(7, _aten.mul.Tensor, (Ref(3), Ref(1))),
            Op(8, _aten.sub.Tensor, (Ref(6), Ref(7))),
            Op(9, _aten.add.Tensor, (Ref(8), Ref(4))),
            Op(10, _aten.mul.Tensor, (Ref(2), Ref(1))),
            Op(11, _aten.mul.Tensor, (Ref(3), Ref(0))),
            Op(12, _aten.add.Tensor, (Ref(10), Ref(11))),
            Op(13, _aten.add.Tensor, (Ref(12), Ref(5))),
        ),
        (Ref(9), Ref(13), Ref(9), Ref(13)),
    ),
    states=2,
    sequences=4,
    path="",
)
#: How many values of the same shape may lie between both parts of a result.
_APART: Final = 6

_Pair = tuple[Ref, Ref]


@dataclass(frozen=True)
class _Recurrence:
    """y[t] = a[t] y[t - 1] + b[t] along an axis; each is a real part and an imaginary one."""

    factor: _Pair
    summand: _Pair
    result: _Pair
    axis: int


def replace_complex_rounds(trace: Unrolled, inputs: Sequence[Tensor], time: int) -> bool:
    """Writes recurrences of complex numbers in rounds as calls of `scan`, in place.

    Args:
        trace: a trace at a fixed number of steps.
        inputs: values of its inputs, at these sizes.
        time: the number of steps.

    Returns:
        Whether it had any.
    """
    has_rounds = False
    while (found := _first_recurrence(trace, inputs, time)) is not None:
        _replace(trace, found)
        has_rounds = True
    return has_rounds


def _first_recurrence(trace: Unrolled, inputs: Sequence[Tensor], time: int) -> _Recurrence | None:
    """The recurrence whose result is computed first."""
    values = floats_of(values_of(trace, inputs))
    mixed = behind_rounds(trace)
    results = [place for place in values if place.value in mixed]
    for last in results:
        for axis, size in enumerate(values[last].shape):
            if size != time or size < 3:
                continue
            for result in _pairs_with(last, results, values):
                for found in _candidates(result, axis, values):
                    if _is_computed(trace, inputs, found, values):
                        return found
    return None


def _pairs_with(last: Ref, results: Sequence[Ref], values: Mapping[Ref, Tensor]) -> Iterator[_Pair]:
    """A result and one of those shortly before it, in both orders."""
    alike = [place for place in results if values[place].shape == values[last].shape]
    position = alike.index(last)
    for other in alike[max(0, position - _APART) : position]:
        yield other, last
        yield last, other


def _candidates(result: _Pair, axis: int, values: Mapping[Ref, Tensor]) -> Iterator[_Recurrence]:
    """The recurrences that a pair may be the result of, by these values."""
    y = torch.complex(*(values[part] for part in result))
    steps = y.shape[axis]
    if not (torch.isfinite(torch.view_as_real(y)).all() and y.abs().min() > 0):
        return

    first = min(result, key=lambda ref: ref.value)
    before = [*earlier(first, values)][::-1]
    real_summands, imag_summands = ([*_summands(part, before, axis, values)] for part in result)
    for summand in itertools.product(real_summands, imag_summands):
        b = torch.complex(*(values[part] for part in summand))
        later = y.narrow(axis, 1, steps - 1) - b.narrow(axis, 1, steps - 1)
        a = later / y.narrow(axis, 0, steps - 1)
        for real in _equal_to(a.real, before, axis, y, values):
            for imag in _equal_to(a.imag, before, axis, y, values):
                yield _Recurrence((real, imag), summand, result, axis)


def _summands(
    part: Ref, before: Sequence[Ref], axis: int, values: Mapping[Ref, Tensor]
) -> Iterator[Ref]:
    """The values that a part of the result begins with, and that are not the part itself."""
    y = values[part]
    for place in before:
        b = values[place]
        if b.shape == y.shape and is_close(b.select(axis, 0), y.select(axis, 0)):
            if is_close(b, y):
                return  # the summand itself, moved
            yield place


def _equal_to(
    wanted: Tensor, before: Sequence[Ref], axis: int, like: Tensor, values: Mapping[Ref, Tensor]
) -> Iterator[Ref]:
    """The values that are these numbers from the second step on."""
    steps = like.shape[axis]
    for place in before:
        value = values[place]
        if value.ndim != like.ndim or value.shape[axis] != steps or not expands(value, like):
            continue
        if is_close(value.narrow(axis, 1, steps - 1).expand_as(wanted), wanted):
            yield place


def _is_computed(
    trace: Unrolled, inputs: Sequence[Tensor], found: _Recurrence, values: Mapping[Ref, Tensor]
) -> bool:
    """Whether the rounds compute the recurrence from the factor and the summand alone."""
    starts = (*found.factor, *found.summand)
    parts = [region(trace, starts, part) for part in found.result]
    if any(part.used for part in parts):
        return False

    random = torch.Generator().manual_seed(0)
    for scale in SCALES:
        given = [numbers_of_all_kinds(values[place], scale, random) for place in starts]
        y = torch.complex(*(part.run(inputs, given) for part in parts))
        expected = stepwise(torch.complex(*given[:2]), torch.complex(*given[2:]), found.axis)
        error = float((y - expected).abs().max())
        if not error <= 1e-9 * float(expected.abs().max()):
            return False
    return True


def _replace(trace: Unrolled, found: _Recurrence) -> None:
    """Writes a recurrence as a call of `scan`, and leaves out what is no longer needed."""
    writer, axis = OpWriter(trace.metas), found.axis
    meta = trace.meta(found.summand[0])
    shape = (*meta.shape[:axis], *meta.shape[axis + 1 :])
    step = TensorMeta(shape, meta.dtype)
    sizes = tuple(read_size(writer, trace.arguments, size) for size in shape)
    zeros = [writer.add(_aten.full.default, (sizes, 0), step, (("dtype", meta.dtype),))] * 2

    sequences = [writer.move_axis(part, axis, 0) for part in (*found.factor, *found.summand)]
    stack = TensorMeta((meta.shape[axis], *shape), meta.dtype)
    operands = (_STEP, tuple(zeros), tuple(sequences), ())
    looped = writer.add(scan, operands, [step, step, stack, stack])

    changes = {}
    for number, part in enumerate(found.result, 2):
        changes[part] = writer.move_axis(Ref(looped.value, number), 0, axis)
    replace_values(trace, changes, writer.ops)
