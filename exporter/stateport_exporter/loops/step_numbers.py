# SPDX-License-Identifier: Apache-2.0
"""Numbers that follow from the number of the step: `0.9 ** t`, `1 / (t + 1)`, `t`.

Python computes them while forward is traced, so a trace has the values alone. A law is found that
gives these values, and is computed for every step from `torch.arange`, which goes on from call to
call. Whether it is the author's law is not known here: `check` compares at other lengths.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Protocol

import numpy as np
import torch

from stateport.picking import present

from ..network.program import Op, Ref
from .trace import OpWriter, TensorMeta

_aten: Final = torch.ops.aten

#: Operators that take a number at some places, and those that take a tensor there.
_WITH_TENSORS: Final[dict[Any, Any]] = {
    _aten.add.Tensor: _aten.add.Tensor,
    _aten.sub.Tensor: _aten.sub.Tensor,
    _aten.mul.Tensor: _aten.mul.Tensor,
    _aten.div.Tensor: _aten.div.Tensor,
    _aten.rsub.Scalar: _aten.rsub.Tensor,
    _aten.remainder.Scalar: _aten.remainder.Tensor,
    _aten.remainder.Scalar_Tensor: _aten.remainder.Tensor,
    _aten.fmod.Scalar: _aten.fmod.Tensor,
    _aten.pow.Tensor_Scalar: _aten.pow.Tensor_Tensor,
    _aten.pow.Scalar: _aten.pow.Tensor_Tensor,
    _aten.lerp.Scalar: _aten.lerp.Tensor,
    _aten.eq.Scalar: _aten.eq.Tensor,
    _aten.ne.Scalar: _aten.ne.Tensor,
    _aten.lt.Scalar: _aten.lt.Tensor,
    _aten.le.Scalar: _aten.le.Tensor,
    _aten.gt.Scalar: _aten.gt.Tensor,
    _aten.ge.Scalar: _aten.ge.Tensor,
    _aten.full.default: _aten.full.default,
}
#: The largest difference between a law and the values, relative to the largest value.
_TOLERANCE: Final = 1e-12
#: Values that are needed to believe a law of three parameters. The last may be unknown besides.
FEWEST_VALUES: Final = 4
#: Denominators that an author may have meant, where a fraction is found by rounding.
_LARGEST_DENOMINATOR: Final = 1000
_LARGEST_PERIOD: Final = 3


class Law(Protocol):
    """How a number follows from the number of the step."""

    def at(self, step: int) -> float:
        """The value at a step; the first is 0."""

    def write(self, writer: OpWriter, steps: Ref) -> Ref:
        """Writes the values at `steps`, int64[n]. They are int64 or float64."""


def takes_tensor(op: Op, path: tuple[int, ...]) -> bool:
    """Whether an operator takes a tensor where the number at this path is."""
    if op.target not in _WITH_TENSORS or len(path) != 1:
        return False
    return path[0] < len(op.args)


def with_tensor(target: Any) -> Any:
    """The operator that takes a tensor where `target` takes a number."""
    return _WITH_TENSORS[target]


def is_number(value: Any) -> bool:
    """Whether an operand is a number that a law may give."""
    return type(value) in (int, float)


def law_of(values: Sequence[float | None]) -> Law | None:
    """The law that gives these values for the steps 0, 1, 2 ...; None where none is known.

    The last value may be unknown. The first three values alone determine the law, so that traces of
    different lengths have the same one. The others have to agree.
    """
    known = [*present(values)]
    if len(known) < len(values) - 1 or len(known) < FEWEST_VALUES:
        return None
    if not all(map(math.isfinite, known)):
        return None
    if all(type(value) is int for value in known):
        laws = _integer_laws(known)
    else:
        laws = _float_laws(known)
    return next((law for law in laws if _agrees(law, known)), None)


@dataclass(frozen=True)
class _Linear:
    """The line first + growth * step, or first + growth * (step % period)."""

    first: int
    growth: int
    period: int | None = None

    def at(self, step: int) -> float:
        return self.first + self.growth * (step if self.period is None else step % self.period)

    def write(self, writer: OpWriter, steps: Ref) -> Ref:
        if self.period is not None:
            steps = _apply(writer, _aten.remainder.Scalar, steps, self.period)
        return _line(writer, steps, self.first, self.growth)


@dataclass(frozen=True)
class _Quotient:
    """(first + growth * step) / (1 + below * step), or the square root of it."""

    first: float
    growth: float
    below: float
    is_root: bool

    def at(self, step: int) -> float:
        divisor = 1 + self.below * step
        if divisor == 0:
            return math.nan
        value = (self.first + self.growth * step) / divisor
        if not self.is_root:
            return value
        return math.sqrt(value) if value >= 0 else math.nan

    def write(self, writer: OpWriter, steps: Ref) -> Ref:
        steps = _as_float(writer, steps)
        value = _line(writer, steps, self.first, self.growth)
        if self.below != 0:
            divisor = _line(writer, steps, 1.0, self.below)
            value = _apply(writer, _aten.div.Tensor, value, divisor)
        return _apply(writer, _aten.sqrt.default, value) if self.is_root else value


@dataclass(frozen=True)
class _Power:
    """The power limit + factor * base ** step."""

    limit: float
    factor: float
    base: float

    def at(self, step: int) -> float:
        return self.limit + self.factor * self.base**step

    def write(self, writer: OpWriter, steps: Ref) -> Ref:
        exponents = _as_float(writer, steps)
        base = _constant(writer, self.base)
        powers = writer.add(
            _aten.pow.Tensor_Tensor, (base, exponents), writer.metas[exponents.value]
        )
        return _line(writer, powers, self.limit, self.factor)


@dataclass(frozen=True)
class _Wave:
    """The wave height * sin(speed * step + phase)."""

    height: float
    speed: float
    phase: float

    def at(self, step: int) -> float:
        return self.height * math.sin(self.speed * step + self.phase)

    def write(self, writer: OpWriter, steps: Ref) -> Ref:
        angle = _line(writer, _as_float(writer, steps), self.phase, self.speed)
        wave = _apply(writer, _aten.sin.default, angle)
        return _line(writer, wave, 0.0, self.height)


def _integer_laws(values: Sequence[float]) -> Iterator[Law]:
    first, growth = int(values[0]), int(values[1] - values[0])
    yield _Linear(first, growth)
    for period in range(2, _LARGEST_PERIOD + 1):
        yield _Linear(first, growth, period)


def _float_laws(values: Sequence[float]) -> Iterator[Law]:
    yield from _quotients(values, is_root=False)
    yield from _powers(values)
    if min(values) >= 0:
        yield from _quotients([value**2 for value in values], is_root=True)
    yield from _waves(values)


def _quotients(values: Sequence[float], *, is_root: bool) -> Iterator[Law]:
    v0, v1, v2 = values[:3]
    if v1 == v2:
        return
    exact = (v2 - 2 * v1 + v0) / (2 * (v1 - v2))
    for below in _meant(exact):
        yield _Quotient(v0, v1 * (1 + below) - v0, below, is_root)
        for growth in _meant(v1 * (1 + below) - v0):
            yield _Quotient(v0, growth, below, is_root)


def _powers(values: Sequence[float]) -> Iterator[Law]:
    v0, v1, v2 = values[:3]
    if v0 != 0:
        yield from (_Power(0.0, v0, base) for base in _meant(v1 / v0))
    if v1 == v0 or v2 == v1:
        return
    for base in _meant((v2 - v1) / (v1 - v0)):
        if base != 1:
            for factor in _meant((v1 - v0) / (base - 1)):
                yield _Power(v0 - factor, factor, base)


def _waves(values: Sequence[float]) -> Iterator[Law]:
    v0, v1, v2 = values[:3]
    cosine = (v0 + v2) / (2 * v1) if v1 != 0 else 2.0
    if not -1 < cosine < 1:
        return
    for speed in _meant(math.acos(cosine)):
        # height * sin(phase), and height * cos(phase).
        height_sine, height_cosine = v0, (v1 - v0 * math.cos(speed)) / math.sin(speed)
        height = math.hypot(height_sine, height_cosine)
        phase = math.atan2(height_sine, height_cosine)
        for meant in _meant(height):
            yield _Wave(meant, speed, phase)


def _meant(value: float) -> Iterator[float]:
    """What an author may have written where rounding gave `value`; `value` itself comes last."""
    yield float(Fraction(value).limit_denominator(_LARGEST_DENOMINATOR))
    yield round(value, 10)
    yield value


def _agrees(law: Law, values: Sequence[float]) -> bool:
    bound = _TOLERANCE * max(map(abs, values))
    try:
        return all(
            abs(law.at(step) - value) <= bound for step, value in zip(itertools.count(), values)
        )
    except OverflowError:
        return False


def _line(writer: OpWriter, steps: Ref, first: float, growth: float) -> Ref:
    """Writes first + growth * steps."""
    if growth != 1:
        steps = _apply(writer, _aten.mul.Tensor, steps, _constant(writer, growth))
    if first != 0:
        steps = _apply(writer, _aten.add.Tensor, steps, _constant(writer, first))
    return steps


def _constant(writer: OpWriter, value: float) -> float | Ref:
    """A number as an operand: an integer as it is, a float as a tensor of float64.

    PyTorch's exporter rounds numbers to float32, so a float is the sum of up to three that float32
    has.
    """
    if type(value) is int:
        return value

    meta = TensorMeta((), torch.float64)
    total: Ref | None = None
    rest = value
    while total is None or rest != 0:
        part = float(np.float32(rest))
        rest -= part
        filled = writer.add(_aten.full.default, ((), part), meta, (("dtype", torch.float64),))
        total = filled if total is None else writer.add(_aten.add.Tensor, (total, filled), meta)
    return total


def _as_float(writer: OpWriter, steps: Ref) -> Ref:
    meta = writer.metas[steps.value]
    return writer.add(_aten.to.dtype, (steps, torch.float64), TensorMeta(meta.shape, torch.float64))


def _apply(writer: OpWriter, target: Callable[..., Any], *args: Any) -> Ref:
    """Writes an operation that keeps the shape and dtype of its tensor."""
    tensor = next(arg for arg in args if isinstance(arg, Ref))
    return writer.add(target, args, writer.metas[tensor.value])
