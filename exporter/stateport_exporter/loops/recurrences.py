# SPDX-License-Identifier: Apache-2.0
"""Parallel scans: recurrences that are computed in rounds, found by what they compute.

y[t] = a[t] y[t - 1] + b[t] can be computed for all t in log2(T) rounds (Hillis and Steele 1986,
Blelloch 1990). There are many ways to write the rounds, and their number depends on the length.
So nobody reads them here: a trace is run, and looked through for values a, b and y that satisfy the
equation at every step. If y is computed from a and b alone, and these operations satisfy it on any
numbers, one call of `scan` takes their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from .regions import region, replace_values, values_of
from .trace import OpWriter, TensorMeta, Unrolled, read_size

_aten: Final = torch.ops.aten

#: Of a state (0), and of a factor (1) and a summand (2) of this step.
_STEP: Final = Body(
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


#: The magnitudes of numbers on which rounds have to be a recurrence.
SCALES: Final = (1.0, 0.01, 30.0, 3000.0)


@dataclass(frozen=True)
class _Recurrence:
    """y[t] = a[t] y[t - 1] + b[t] along an axis, which all three have."""

    factor: Ref
    summand: Ref
    result: Ref
    axis: int


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


def _first_recurrence(trace: Unrolled, inputs: Sequence[Tensor], time: int) -> _Recurrence | None:
    """The recurrence whose result is computed first."""
    values = floats_of(values_of(trace, inputs))
    mixed = behind_rounds(trace)
    for result, y in values.items():
        if result.value not in mixed:
            continue
        for axis, size in enumerate(y.shape):
            candidates = _candidates(result, axis, values) if size == time else ()
            for found in candidates:
                if _is_computed(trace, inputs, found, values):
                    return found
    return None


def floats_of(values: Mapping[Ref, Any]) -> dict[Ref, Tensor]:
    """The tensors of floats among the values of a trace."""
    floats = {}
    for place, value in values.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            floats[place] = value
    return floats


def behind_rounds(trace: Unrolled) -> set[int]:
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


def _candidates(result: Ref, axis: int, values: Mapping[Ref, Tensor]) -> Iterator[_Recurrence]:
    """The recurrences that a value may be the result of along an axis, by these values.

    Of values that are the same the last one comes first, which has gone through all that precedes
    the rounds.
    """
    y = values[result]
    steps = y.shape[axis]
    if steps < 3 or not y.isfinite().all():
        return

    before_result = [*earlier(result, values)][::-1]
    before, later = y.narrow(axis, 0, steps - 1), y.narrow(axis, 1, steps - 1)
    for summand in before_result:
        b = values[summand]
        if b.shape != y.shape or not is_close(y.select(axis, 0), b.select(axis, 0)):
            continue
        if is_close(y, b):
            return  # y is the summand itself, moved
        for factor in before_result:
            a = values[factor]
            if a.ndim != y.ndim or a.shape[axis] != steps or not expands(a, y):
                continue
            computed = a.narrow(axis, 1, steps - 1) * before + b.narrow(axis, 1, steps - 1)
            if is_close(computed, later):
                yield _Recurrence(factor, summand, result, axis)


def _is_computed(
    trace: Unrolled, inputs: Sequence[Tensor], found: _Recurrence, values: Mapping[Ref, Tensor]
) -> bool:
    """Whether the rounds compute the recurrence from the factor and the summand alone.

    The operations between them are run on numbers of all kinds: what is the same on a network's own
    values may differ on others, as a gate and the same gate with a bound.
    """
    rounds = region(trace, [found.factor, found.summand], found.result)
    if rounds.used:
        return False
    random = torch.Generator().manual_seed(0)
    for scale in SCALES:
        a, b = (numbers_of_all_kinds(values[place], scale, random) for place in rounds.starts)
        y = rounds.run(inputs, [a, b])
        expected = stepwise(a, b, found.axis)
        error = float((y - expected).abs().max())
        if not error <= 1e-9 * float(expected.abs().max()):
            return False
    return True


def numbers_of_all_kinds(like: Tensor, scale: float, random: torch.Generator) -> Tensor:
    """Numbers in the shape of a tensor: of both signs, some of them zero or one."""
    numbers = scale * torch.randn(like.shape, generator=random, dtype=torch.float64)
    kind = torch.randint(0, 6, like.shape, generator=random)
    return numbers.where(kind > 1, kind.double())


def stepwise(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """The recurrence, step by step."""
    steps = [b.select(axis, 0)]
    for step in range(1, b.shape[axis]):
        steps.append(a.select(axis, step) * steps[-1] + b.select(axis, step))
    return torch.stack(steps, axis)


def earlier(result: Ref, values: Mapping[Ref, Tensor]) -> Iterator[Ref]:
    """The values that are computed before a result."""
    for place in values:
        if place.value == result.value:
            return
        yield place


def expands(tensor: Tensor, other: Tensor) -> bool:
    """Whether a tensor can be expanded to the shape of another one."""
    sizes = zip(tensor.shape, other.shape, strict=True)
    return all(size in (1, wanted) for size, wanted in sizes)


def is_close(first: Tensor, second: Tensor) -> bool:
    """Whether values in float64 are the same, apart from rounding."""
    return torch.allclose(first, second, rtol=1e-9, atol=1e-12)


def _replace(trace: Unrolled, found: _Recurrence) -> None:
    """Writes a recurrence as a call of `scan`, and leaves out what is no longer needed."""
    writer = OpWriter(trace.metas)
    y = _write_scan(writer, trace, found)
    replace_values(trace, {found.result: y}, writer.ops)


def _write_scan(writer: OpWriter, trace: Unrolled, found: _Recurrence) -> Ref:
    """Writes the operations that compute a recurrence step by step."""
    meta, axis = trace.meta(found.summand), found.axis
    shape = (*meta.shape[:axis], *meta.shape[axis + 1 :])
    step = TensorMeta(shape, meta.dtype)
    sizes = tuple(read_size(writer, trace.arguments, size) for size in shape)
    start = writer.add(_aten.full.default, (sizes, 0), step, (("dtype", meta.dtype),))

    factor = writer.move_axis(found.factor, axis, 0)
    summand = writer.move_axis(found.summand, axis, 0)
    stack = TensorMeta((meta.shape[axis], *shape), meta.dtype)
    looped = writer.add(scan, (_STEP, (start,), (factor, summand), ()), [step, stack])
    return writer.move_axis(Ref(looped.value, 1), 0, axis)
