# SPDX-License-Identifier: Apache-2.0
"""`associative_scan` of PyTorch, written as the loop that it stands for.

PyTorch combines the steps of a sequence in rounds, whose number depends on the length of the
sequence. The same is computed by a loop, y[t] = combine(y[t - 1], x[t]), which needs a value before
the first step. A value with which a step stays as it is, as 0 for sums and 1 for products, is
looked for by trying. Where there is none, the loop carries whether it has begun.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..network.higher_order import replaced
from .refusals import FixedTimeError

#: Numbers that may stand before the first step, and the identity matrix.
_NEUTRAL: Final[tuple[float | str, ...]] = (0.0, 1.0, -math.inf, math.inf, "identity")
#: The most combinations of them that are tried.
_MOST_TRIALS: Final = 4096

#: For each tensor of a step what stands before the first one; None where nothing was found.
First = Sequence[float | str] | None
#: Combines two steps, which are several tensors each, along their first axes.
_Combine = Callable[..., Any]


@contextlib.contextmanager
def scans_refused(name: str) -> Iterator[None]:
    """Refuses to trace `associative_scan` in a network of this name.

    Raises:
        FixedTimeError: the network calls it.
    """

    def refuse(
        combine: _Combine, leaves: Sequence[Tensor], dim: int = 0, additional_inputs: Any = ()
    ) -> Any:
        if isinstance(leaves[0].shape[dim], int):  # an axis of a fixed size, as of features
            one_step = partial(_combined, _without_vmap(combine), additional_inputs)
            return _stacked(itertools.accumulate(_steps(leaves, dim), one_step), dim)
        raise FixedTimeError(
            f"{name} cannot take any number of time steps: associative_scan combines them in "
            "rounds, and their number depends on the length of the sequence. Write it as a loop "
            "over the time steps."
        )

    with replaced("associative_scan", "generic_associative_scan", refuse):
        yield


def first_values(run: Callable[[], Any]) -> list[First]:
    """Runs a network on tensors; what stands before the first step of each `associative_scan`."""
    firsts: list[First] = []

    def watch(
        combine: _Combine, leaves: Sequence[Tensor], dim: int = 0, additional_inputs: Any = ()
    ) -> list[Tensor]:
        one_step = partial(_combined, _without_vmap(combine), additional_inputs)
        firsts.append(_first_of(one_step, [leaf.select(dim, -1) for leaf in leaves]))
        return _loop(one_step, leaves, dim, firsts[-1])

    with replaced("associative_scan", "generic_associative_scan", watch):
        run()
    return firsts


@contextlib.contextmanager
def scans_as_loops(firsts: Sequence[First]) -> Iterator[None]:
    """Traces each call of `associative_scan` as a loop over its axis, from these first values."""
    calls = iter(firsts)

    def run(
        combine: _Combine, leaves: Sequence[Tensor], dim: int = 0, additional_inputs: Any = ()
    ) -> list[Tensor]:
        one_step = partial(_combined, _without_vmap(combine), additional_inputs)
        return _loop(one_step, leaves, dim, next(calls, None))

    with replaced("associative_scan", "generic_associative_scan", run):
        yield


def _without_vmap(combine: _Combine) -> _Combine:
    """The author's function for two steps; PyTorch wraps it in `vmap` over the axis of steps."""
    assert isinstance(combine, partial)
    vmapped = combine.keywords["combine_fn"]
    function = inspect.getclosurevars(vmapped).nonlocals["func"]
    return partial(combine.func, **{**combine.keywords, "combine_fn": function})


def _combined(
    combine: _Combine, more: Sequence[Any], earlier: Sequence[Tensor], later: Sequence[Tensor]
) -> list[Tensor]:
    leaves: list[Tensor] = pytree.tree_leaves(combine(*earlier, *later, *more))
    return leaves


def _loop(
    one_step: Callable[..., list[Tensor]], leaves: Sequence[Tensor], dim: int, first: First
) -> list[Tensor]:
    """The combinations of all steps so far, for every step."""
    steps = _steps(leaves, dim)
    if first is None:
        return _stacked(_values_after_none(one_step, steps), dim)

    starts = [*itertools.starmap(_start, zip(first, steps[0], strict=True))]
    values = itertools.accumulate(steps, one_step, initial=starts)
    return _stacked(itertools.islice(values, 1, None), dim)


def _steps(leaves: Sequence[Tensor], dim: int) -> list[tuple[Tensor, ...]]:
    """The tensors of each step."""
    return [*zip(*(leaf.unbind(dim) for leaf in leaves), strict=True)]


def _stacked(values: Iterable[Sequence[Tensor]], dim: int) -> list[Tensor]:
    return [torch.stack(column, dim) for column in zip(*values, strict=True)]


def _values_after_none(
    one_step: Callable[..., list[Tensor]], steps: Sequence[Sequence[Tensor]]
) -> list[list[Tensor]]:
    """The combinations of all steps so far, from the first step itself."""
    values = [*map(torch.zeros_like, steps[0])]
    # One for each number, so that each row of a batch has its own.
    begun = [torch.zeros_like(value, dtype=torch.bool) for value in values]

    results = []
    for step in steps:
        combined = one_step(values, step)
        values = [*map(torch.where, begun, combined, step)]
        # From what it was, so that the first step does what all others do.
        begun = [flag | torch.ones_like(flag) for flag in begun]
        results.append(values)
    return results


def _first_of(one_step: Callable[..., list[Tensor]], step: Sequence[Tensor]) -> First:
    """Values that leave a step as it is when they are combined with it; None if none do."""
    combinations = itertools.product(_NEUTRAL, repeat=len(step))
    for first in itertools.islice(combinations, _MOST_TRIALS):
        if _is_neutral(one_step, first, step):
            return first
    return None


def _is_neutral(
    one_step: Callable[..., list[Tensor]], first: Sequence[float | str], step: Sequence[Tensor]
) -> bool:
    try:
        starts = [*itertools.starmap(_start, zip(first, step, strict=True))]
        combined = one_step(starts, step)
    except (RuntimeError, ValueError, OverflowError):  # as of infinity among whole numbers
        return False

    pairs = zip(combined, step, strict=True)
    return all(torch.allclose(new, old, rtol=1e-5, atol=1e-7) for new, old in pairs)


def _start(kind: float | str, like: Tensor) -> Tensor:
    """What stands before the first step, in the shape of a step.

    Raises:
        ValueError: a step is no square matrix, or its dtype has no such number.
    """
    if not isinstance(kind, str):
        if math.isinf(kind) and not like.is_floating_point():
            raise ValueError("no infinity")
        return torch.full_like(like, kind)

    is_square = like.ndim >= 2 and like.shape[-1] == like.shape[-2]
    if not is_square:
        raise ValueError("no square matrix")
    return torch.eye(like.shape[-1], dtype=like.dtype).expand_as(like)
