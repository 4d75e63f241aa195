# SPDX-License-Identifier: Apache-2.0
"""Operations of a trace, run on random numbers to see what linear attention they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..network.program import Ref
from .attention import KEYS, TIME, Start
from .regions import Region
from .time_flow import Place, differs


class Trial:
    """Operations that are run on random numbers.

    Attributes:
        part: the operations.
        axis: the axis of time of their result.
        base: the result for random numbers, with steps first.
    """

    def __init__(
        self,
        part: Region,
        inputs: Sequence[Tensor],
        values: Mapping[Ref, Any],
        places: Mapping[Ref, Place],
        axis: int,
    ) -> None:
        self.part = part
        self.axis = axis
        self._inputs = inputs
        self._like = [values[ref] for ref in part.starts]
        self._time_axes = [places[ref].axis for ref in part.starts]
        self._random = torch.Generator().manual_seed(0)
        self.given = [self._numbers(like) for like in self._like]
        self.base = self.run(self.given)
        self.rank = self.base.ndim
        self.time = len(self.base)

    def run(self, given: Iterable[Tensor]) -> Tensor:
        """The result for values of the starts, with steps first."""
        laid_out = []
        for value, like in zip(given, self._like, strict=True):
            # A view may be possible with the strides of the network's own values alone.
            laid_out.append(torch.empty_like(like, dtype=torch.float64).copy_(value))
        return self.part.run(self._inputs, laid_out).movedim(self.axis, 0)

    def _numbers(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._random, dtype=torch.float64)

    def starts(self) -> list[Start] | None:
        """What the axes of the starts are; None if the result is none of linear attention."""
        if not self.base.isfinite().all():
            return None
        starts, sizes = [], set()
        for number, ref in enumerate(self.part.starts):
            reach = self._reach(number)
            if reach is None:
                return None
            if reach != "nowhere":
                axes = self._axes(number)
                sizes |= self._sizes_of_keys(number, axes)
                if axes.count(KEYS) > 1 or len(sizes) > 1:
                    return None
                starts.append(Start(ref, number, axes, reach == "same step"))
        return starts

    def _sizes_of_keys(self, number: int, axes: Sequence[int | None]) -> set[int]:
        shape = self.given[number].shape
        return {size for size, meaning in zip(shape, axes, strict=True) if meaning == KEYS}

    def _changed(self, number: int, axis: int, index: int) -> Tensor:
        """Which numbers of the result change with a part of a start."""
        other = self.given[number].clone()
        part = other.select(axis, index)
        part.copy_(self._numbers(part))
        given = [*self.given[:number], other, *self.given[number + 1 :]]
        return differs(self.run(given), self.base)

    def _reach(self, number: int) -> str | None:
        """Which steps of the result depend on a step of a start; None for an earlier one."""
        axis, middle = self._time_axes[number], self.time // 2
        assert axis is not None
        first, later = self._changed(number, axis, 0), self._changed(number, axis, middle)
        if later[:middle].any():
            return None
        if not first.any() and not later.any():
            return "nowhere"
        if first[1:].any() or later[middle + 1 :].any():
            return "later steps"
        return "same step"

    def _axes(self, number: int) -> tuple[int | None, ...]:
        axes: list[int | None] = []
        for axis, size in enumerate(self.given[number].shape):
            if axis == self._time_axes[number]:
                axes.append(TIME)
            elif size == 1:
                axes.append(None)
            else:
                axes.append(self._axis_of_result(self._changed(number, axis, 0), size))
        return tuple(axes)

    def _axis_of_result(self, changed: Tensor, size: int) -> int:
        """The axis of that size on which only the first entry changed; `KEYS` if there is none."""
        for axis in range(1, self.rank):
            others = changed.clone()
            others.select(axis, 0).zero_()
            if changed.shape[axis] == size and not others.any():
                return axis
        return KEYS

    def added(self, starts: Sequence[Start]) -> list[tuple[Start, Tensor]] | None:
        """The starts of which a step of the result gets a multiple of this step, with the factors.

        None if the result is not the sum of these and of what begins with zero.
        """
        zeros = [torch.zeros_like(value) for value in self.given]
        result = self.run(zeros)
        if result.isnan().all():  # divided by the sum of the weights
            return []
        if result.any():
            return None

        added = []
        for start in starts:
            alone = [*zeros]
            alone[start.number] = self.given[start.number]
            result = self.run(alone)
            if not result.any():
                continue
            alone[start.number] = torch.ones_like(self.given[start.number])
            factor = _without_equal(self.run(alone)[:1])
            value = start.arranged(self.given[start.number], self.rank, has_keys=False)
            if KEYS not in start.axes and is_close(factor * value, result):
                added.append((start, factor))
            elif start.is_direct:
                return None
        return added

    def may_be_mean(self, values: Start) -> bool:
        """Whether the result is about 1 or less where all values are 1.

        What is added to a small sum of weights may make it more than 1.
        """
        given = [*self.given]
        given[values.number] = torch.ones_like(given[values.number])
        return bool((self.run(given).abs() <= 1.5).all())

    def fixed_decay(self, roles: Mapping[str, Start]) -> Tensor | None:
        """A decay that is the same in all steps, with the axes of the state; None if it is 1.

        It is read off what is left of a value of the first step in the second and the third one.
        """
        given = self._only_first_value(roles)
        decay = self._for_each_key(roles, given, lambda result: result[2] / result[1])
        if not decay.isfinite().all() or is_close(decay, torch.ones_like(decay)):
            return None
        return _without_equal(decay)

    def bonus(self, roles: Mapping[str, Start]) -> Tensor | None:
        """What the first step's own key and value count in the result, with the axes of the state.

        It is what a step's own key and value count where the state is read before they are added.
        None if it is 0, as where the state is read before.
        """
        given = self._only_first_value(roles)
        bonus = self._for_each_key(roles, given, lambda result: result[0])
        if not bonus.isfinite().all() or not bonus.any():
            return None
        return _without_equal(bonus)

    def _only_first_value(self, roles: Mapping[str, Start]) -> list[Tensor]:
        """Ones in all roles, with a value in the first step alone."""
        given = [torch.zeros_like(value) for value in self.given]
        for start in roles.values():
            given[start.number].fill_(1)
        steps = self._time_axes[roles["value"].number]
        assert steps is not None
        given[roles["value"].number].narrow(steps, 1, self.time - 1).zero_()
        return given

    def _for_each_key(
        self,
        roles: Mapping[str, Start],
        given: Sequence[Tensor],
        read: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """What is read off the result where one key after the other is not zero, stacked."""
        of_keys = roles.get("key", roles["value"])
        if KEYS not in of_keys.axes:
            return read(self.run(given))

        axis = of_keys.axes.index(KEYS)
        keys, each = given[of_keys.number], []
        for key in range(keys.shape[axis]):
            only = torch.zeros_like(keys)
            only.select(axis, key).copy_(keys.select(axis, key))
            with_one_key = [*given]
            with_one_key[of_keys.number] = only
            each.append(read(self.run(with_one_key)))
        return torch.stack(each, -1)


def _without_equal(tensor: Tensor) -> Tensor:
    """A tensor with one entry for each axis on which all entries are equal."""
    for axis in range(tensor.ndim):
        first = tensor.narrow(axis, 0, 1)
        if is_close(first.expand_as(tensor), tensor):
            tensor = first
    return tensor


def is_close(first: Tensor, second: Tensor) -> bool:
    """Whether two results are equal, apart from rounding in float64."""
    return torch.allclose(first, second, rtol=1e-9, atol=1e-12)
