# SPDX-License-Identifier: Apache-2.0
"""How many time steps each pass of a loop takes.

A loop may take two steps at a time, every third step, or something else in each fourth one. Its
graph is one graph then for lengths that are multiples of this number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .example import Example
from .trial import runs_at

#: The most steps of one pass.
_LARGEST_STRIDE: Final = 16
#: The shortest length that is tried: a loop may begin differently.
_SHORTEST: Final = 8
#: The number of passes that have to be alike.
_PASSES: Final = 3


def loop_stride(network: nn.Module, example: Example) -> int | None:
    """The number of steps of each pass of a network's loop; None if it is 1, or unknown.

    It is found by the number of calls of each operation, which grows by as many with every pass.
    The network has to run at multiples of it, and may fail at other lengths.

    Args:
        network: an `Explicit` network. It is run at lengths of up to 56 steps.
        example: its arguments.
    """
    if "time" not in example.axes or example.time_multiple != 1:
        return None

    calls: dict[int, Counter[Any]] = {}
    longest = _SHORTEST + _PASSES * _LARGEST_STRIDE
    for time in range(_SHORTEST, longest + 1):
        counted = _count_calls(network, example, time)
        if counted is not None:
            calls[time] = counted

    for stride in range(1, _LARGEST_STRIDE + 1):
        multiples = range(-(-_SHORTEST // stride) * stride, longest + 1, stride)
        if calls.keys() >= {*multiples} and _grow_alike(calls, stride):
            return stride if stride > 1 else None
    return None


def _grow_alike(calls: Mapping[int, Counter[Any]], stride: int) -> bool:
    """Whether as many calls are added with every `stride` steps, wherever they begin."""
    growths = []
    for time, before in calls.items():
        if time + stride in calls:
            growths.append(calls[time + stride] - before)
    return growths[0].total() > 0 and all(growth == growths[0] for growth in growths)


def _count_calls(network: nn.Module, example: Example, time: int) -> Counter[Any] | None:
    """How often a network calls each operation; None if it fails at this length."""
    with _Calls() as calls:
        runs = runs_at(network, example, {"time": time})
    return calls.counts if runs else None


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the calls of each operation with the same parameters, or the same part of one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        parameters = tuple(id(value) for value in args if isinstance(value, nn.Parameter))
        if parameters or _has_place(func, args) or not _moves_only(func):
            self._count(func, args, parameters)
        return func(*args, **(kwargs or {}))

    def _count(self, func: Any, args: Any, parameters: tuple[int, ...]) -> None:
        numbers = tuple(value for value in args if type(value) is int)
        is_of_one_place = bool(parameters) or _has_place(func, args)
        self.counts[func, parameters, numbers if is_of_one_place else ()] += 1


def _has_place(func: Any, args: Any) -> bool:
    """Whether an operation takes one of few entries of a tensor, as of a ring of the last steps."""
    if func is not torch.ops.aten.select.int:
        return False
    source, dim, _ = args
    return bool(source.shape[dim] < _SHORTEST)


def _moves_only(func: Any) -> bool:
    """Whether an operation gives a view or a copy, of which a piece of a tensor may need either."""
    is_view = any(result.alias_info is not None for result in func._schema.returns)
    return is_view or func is torch.ops.aten.clone.default
