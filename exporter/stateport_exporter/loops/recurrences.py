# SPDX-License-Identifier: Apache-2.0
"""Parallel scans: recurrences that are computed in rounds, found by what they compute.

y[t] = a[t] y[t - 1] + b[t] can be computed for all t in log2(T) rounds (Hillis and Steele 1986,
Blelloch 1990). There are many ways to write the rounds, and their number depends on the length.
So nobody reads them here: a trace is run, and looked through for values a, b and y that satisfy the
equation at every step (`recurrence_candidates`). If y is computed from a and b alone, and these
operations satisfy it on any numbers, one call of `scan` takes their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from ..network.program import (
    Body,
    Op,
    Program,
    Ref,
    operands,
    refs,
)
from ..network.scan import scan
from .recurrence_candidates import Recurrence, Values, recurrences_of
from .regions import region, replace_values, values_of
from .trace import OpWriter, TensorMeta, Unrolled, read_size

_aten: Final = torch.ops.aten

#: Of a state (0), and of a factor (1) and a summand (2) of this step.
_REAL_STEP: Final = Body(
    Program(
        3,
        (
            Op(3, _aten.mul.Tensor, (Ref(1), Ref(0))),
            Op(4, _aten.add.Tensor, (Ref(3), Ref(2))),
        ),
        (Ref(4), Ref(4)),
    ),
    states=1,
    sequences=2,
    path="",
)
#: The same with two parts each: of a state (0 and 1), a factor (2 and 3) and a summand (4 and 5).
_COMPLEX_STEP: Final = Body(
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
#: The magnitudes of numbers on which rounds have to be a recurrence.
_SCALES: Final = (1.0, 0.01, 30.0, 3000.0)


def replace_rounds(trace: Unrolled, inputs: Sequence[Tensor], time: int) -> bool:
    """Writes recurrences that are computed in rounds as calls of `scan`, in place.

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


def _first_recurrence(trace: Unrolled, inputs: Sequence[Tensor], time: int) -> Recurrence | None:
    """The recurrence whose result is computed first."""
    values = _floats(values_of(trace, inputs))
    for found in recurrences_of(values, _behind_rounds(trace), time):
        if _is_computed(trace, inputs, found, values):
            return found
    return None


def _floats(values: Mapping[Ref, Any]) -> Values:
    floats = {}
    for place, value in values.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            floats[place] = value
    return floats


def _behind_rounds(trace: Unrolled) -> set[int]:
    """The values that a part of a sequence went into, and no loop since."""
    behind: set[int] = set()
    for op in trace.ops:
        if op.target is scan:
            continue
        if op.target in _PARTS or any(ref.value in behind for ref in refs(operands(op))):
            behind.add(op.result)
    return behind


#: Operators that take a part of a sequence, or shift it.
_PARTS: Final = (
    _aten.slice.Tensor,
    _aten.narrow.default,
    _aten.constant_pad_nd.default,
    _aten.pad.default,
    _aten.roll.default,
    _aten.index.Tensor,
    _aten.cat.default,
)


def _is_computed(
    trace: Unrolled, inputs: Sequence[Tensor], found: Recurrence, values: Values
) -> bool:
    """Whether the rounds compute the recurrence from the factor and the summand alone.

    The operations between them are run on numbers of all kinds: what is the same on a network's own
    values may differ on others, as a gate and the same gate with a bound.
    """
    starts = (*found.factor, *found.summand)
    rounds = [region(trace, starts, part) for part in found.result]
    if any(part.used for part in rounds):
        return False

    random = torch.Generator().manual_seed(0)
    for scale in _SCALES:
        given = [numbers_of_all_kinds(values[place], scale, random) for place in starts]
        y = _number([part.run(inputs, given) for part in rounds])
        count = len(found.factor)
        expected = _stepwise(_number(given[:count]), _number(given[count:]), found.axis)
        error = float((y - expected).abs().max())
        if not error <= 1e-9 * float(expected.abs().max()):
            return False
    return True


def _number(parts: Sequence[Tensor]) -> Tensor:
    """One tensor of one or two parts."""
    return parts[0] if len(parts) == 1 else torch.complex(*parts)


def numbers_of_all_kinds(like: Tensor, scale: float, random: torch.Generator) -> Tensor:
    """Numbers in the shape of a tensor: of both signs, some of them zero or one."""
    numbers = scale * torch.randn(like.shape, generator=random, dtype=torch.float64)
    kind = torch.randint(0, 6, like.shape, generator=random)
    return numbers.where(kind > 1, kind.double())


def _stepwise(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """The recurrence, step by step."""
    steps = [b.select(axis, 0)]
    for step in range(1, b.shape[axis]):
        steps.append(a.select(axis, step) * steps[-1] + b.select(axis, step))
    return torch.stack(steps, axis)


def _replace(trace: Unrolled, found: Recurrence) -> None:
    """Writes a recurrence as a call of `scan`, and leaves out what is no longer needed."""
    writer, axis = OpWriter(trace.metas), found.axis
    meta = trace.meta(found.summand[0])
    shape = (*meta.shape[:axis], *meta.shape[axis + 1 :])
    step = TensorMeta(shape, meta.dtype)
    sizes = tuple(read_size(writer, trace.arguments, size) for size in shape)
    start = writer.add(_aten.full.default, (sizes, 0), step, (("dtype", meta.dtype),))

    count = len(found.result)
    body = _REAL_STEP if count == 1 else _COMPLEX_STEP
    sequences = [writer.move_axis(part, axis, 0) for part in (*found.factor, *found.summand)]
    stack = TensorMeta((meta.shape[axis], *shape), meta.dtype)
    metas = [*[step] * count, *[stack] * count]
    looped = writer.add(scan, (body, (start,) * count, tuple(sequences), ()), metas)

    changes = {}
    for number, part in enumerate(found.result, count):
        changes[part] = writer.move_axis(Ref(looped.value, number), 0, axis)
    replace_values(trace, changes, writer.ops)
