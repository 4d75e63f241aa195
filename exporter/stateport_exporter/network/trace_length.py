# SPDX-License-Identifier: Apache-2.0
"""How many time steps a network is traced at.

A stride or a long kernel leaves few steps of a short sequence. PyTorch's exporter treats sizes of 0
and 1 as constants (pytorch#157621), so that a graph traced there would hold for that length alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from stateport.shown import shown

from ..errors import ExportError
from .example import Example
from .isolation import unchanged_globals

#: Primes: no product of other sizes is mistaken for one of them.
_LENGTHS: Final = (67, 1031, 4099)
#: What has to be left of time behind every stride.
_FEWEST_STEPS: Final = 3
#: More takes too long to trace and to record.
_MOST_STEPS: Final = 1 << 20


class _Shapes(TorchFunctionMode):
    """Notes the shape of every result."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of `TorchFunctionMode`."""
        result = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.shapes.append(tuple(tensor.shape))
        return result


def at_trace_length(network: nn.Module, example: Example) -> Example:
    """The example at the first length that leaves enough steps of time everywhere.

    Where none does, the example as it is.

    Args:
        network: an `Explicit` network; it is run at several lengths.
        example: the example, at the usual length.
    """
    if "time" not in example.axes:
        return example

    for candidate in _longer_examples(example):
        fewest = _fewest_steps(network, candidate)
        if fewest is not None and fewest >= _FEWEST_STEPS:
            return candidate
    return example


def at_given_length(example: Example, trace_time: int) -> Example:
    """The example at the length that the caller asks for.

    Raises:
        ExportError: `trace_time` is no number of steps, or the example has no time.
    """
    if type(trace_time) is not int or not _FEWEST_STEPS <= trace_time <= _MOST_STEPS:
        raise ExportError(
            f"trace_time is {shown(trace_time)}; a whole number of steps from {_FEWEST_STEPS} to "
            f"{_MOST_STEPS} was expected."
        )
    if "time" not in example.axes:
        raise ExportError(
            f"trace_time is {trace_time}, but no argument of the example has an axis 'time'."
        )
    return example.with_time(trace_time)


def _longer_examples(example: Example) -> Iterator[Example]:
    yield example
    for time in _LENGTHS:
        yield example.with_time(time)


def _fewest_steps(network: nn.Module, example: Example) -> int | None:
    """The smallest size of an axis that grows with time; None where the network fails."""
    time = example.sizes["time"]
    usual = _shapes_at(network, example, time)
    longer = _shapes_at(network, example, 2 * time)
    if usual is None or longer is None or len(usual) != len(longer):
        return None

    sizes = [time]
    for before, after in zip(usual, longer, strict=True):
        if len(before) != len(after):
            return None
        sizes += [size for size, other in zip(before, after, strict=True) if size != other]
    return min(sizes)


def _shapes_at(network: nn.Module, example: Example, time: int) -> list[tuple[int, ...]] | None:
    arguments = example.make({**example.sizes, "time": time})
    seen = _Shapes()
    try:
        with unchanged_globals(seed=0), torch.no_grad(), seen:
            network(*arguments)
    except (Exception, SystemExit):  # the user's forward may raise anything
        return None
    return seen.shapes
