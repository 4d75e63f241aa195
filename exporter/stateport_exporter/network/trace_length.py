# SPDX-License-Identifier: Apache-2.0
"""How many time steps a network is traced at.

A stride or a long kernel leaves few steps of a short sequence. PyTorch's exporter treats sizes of 0
and 1 as constants (pytorch#157621), so that a graph traced there would hold for that length alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from torch import nn

from stateport.axes import is_count
from stateport.shown import shown

from ..errors import ExportError
from .convolution_steps import ConvolutionStates
from .example import Example
from .trial import runs_at

#: Lengths that leave more steps than the usual one. Primes: no product of other sizes is mistaken
#: for one of them.
_LENGTHS: Final = (67, 1031, 4099)
#: A sequence of fewer steps is short: forward may treat it otherwise.
SHORT: Final = 64
#: The number of steps that a network takes beyond those that it is traced at.
_ROOM: Final = 2
#: What has to be left of time behind every stride.
_FEWEST_STEPS: Final = 3
#: The number of lengths at which twice the steps take more calls, as in a loop over time.
_SURELY_A_LOOP: Final = 2
#: More takes too long to trace and to record.
_MOST_STEPS: Final = 1 << 20

#: Factors of the usual length, tried until a network takes the product: small ones, powers of two,
#: and what 5, 10, 20 and 30 milliseconds are at 16 and 44.1 kHz.
_FACTORS: Final = (*range(2, 65), 80, 128, 160, 256, 320, 441, 480, 512, 1024, 2048)


def at_given_length(example: Example, trace_time: int) -> Example:
    """The example at the length that the caller asks for.

    Raises:
        ExportError: `trace_time` is no number of steps, or the example has no time.
    """
    if not is_count(trace_time, _FEWEST_STEPS, _MOST_STEPS):
        raise ExportError(
            f"trace_time is {shown(trace_time)}; a whole number of steps from {_FEWEST_STEPS} to "
            f"{_MOST_STEPS} was expected."
        )
    if "time" not in example.axes:
        raise ExportError(
            f"trace_time is {trace_time}, but no argument of the example has an axis 'time'."
        )
    return example.with_time(trace_time)


def given_by_example(example: Example, *, may_be_loop: bool) -> Example | None:
    """The example at the length of the file that it was made of; None where that is no help.

    Args:
        example: the example, at the usual length.
        may_be_loop: whether the network may have a Python loop over time. Such a loop is traced
            step by step, and so at no greater length than the largest that is usual.
    """
    time = example.given_time
    if time is None or "time" not in example.axes or time == example.sizes["time"]:
        return None

    longest = _LENGTHS[-1] if may_be_loop else _MOST_STEPS
    if _FEWEST_STEPS <= time <= longest:
        return example.with_time(time)
    return None


def long_enough(network: nn.Module, example: Example) -> Example | None:
    """The example at the first greater length that leaves enough steps of time everywhere.

    None where the usual length is enough already, or no length is.

    Args:
        network: an `Explicit` network; it is run at several lengths.
        example: the example, at the usual length.
    """
    if "time" not in example.axes:
        return None

    loops = 0
    for candidate in (example, *map(example.with_time, _LENGTHS)):
        usual = _result_shapes(network, candidate, 1)
        longer = _result_shapes(network, candidate, 2)
        if usual is None or longer is None:
            continue

        if _leaves_enough(usual, longer):
            if candidate is example:
                return None
            return candidate
        # A loop over time calls more functions for every longer sequence, so no length helps. A
        # network with a branch for short sequences may do that at one length.
        loops += len(usual) < len(longer)
        if loops == _SURELY_A_LOOP:
            return None
    return None


def longer_lengths(network: nn.Module, example: Example) -> Iterator[Example]:
    """The example at greater lengths that a network takes."""
    for time in _LENGTHS:
        candidate = example.with_time(time)
        if runs_at(network, candidate, {}):
            yield candidate


def longest_taken(network: nn.Module, example: Example) -> Example | None:
    """The example near the greatest length below the greater ones; None near the usual one.

    A table of positions or a causal mask may end there. Two steps more are left for other sizes to
    be tried.
    """
    for time in range(_LENGTHS[0] - 1, example.sizes["time"] + _ROOM, -1):
        if runs_at(network, example.with_time(time), {}):
            return example.with_time(time - _ROOM)
    return None


def first_taken(network: nn.Module, example: Example) -> Example | None:
    """The example at the first of some greater lengths that the network takes, if there is one.

    Some networks take only multiples of a number of steps, or have to fill a window first.
    """
    if "time" not in example.axes:
        return None

    for factor in _FACTORS:
        candidate = example.with_time(factor * example.sizes["time"])
        if runs_at(network, candidate, {}):
            return candidate
    return None


def _result_shapes(
    network: nn.Module, example: Example, factor: int
) -> Sequence[tuple[int, ...]] | None:
    """The shapes of all results inside a network, at a multiple of the example's length.

    None where the network fails.
    """
    sizes = {"time": factor * example.sizes["time"]}
    with ConvolutionStates() as calls:
        runs = runs_at(network, example, sizes)
    if runs:
        return [shape for _, shape in calls.sizes]
    return None


def _leaves_enough(usual: Sequence[tuple[int, ...]], longer: Sequence[tuple[int, ...]]) -> bool:
    """Whether no axis that grows with time is too short, by the shapes at two lengths."""
    if len(usual) != len(longer):
        return False

    for before, after in zip(usual, longer, strict=True):
        if len(before) != len(after):
            return False
        for size, other_size in zip(before, after, strict=True):
            if size != other_size and size < _FEWEST_STEPS:
                return False
    return True
