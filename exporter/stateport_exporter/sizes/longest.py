# SPDX-License-Identifier: Apache-2.0
"""The longest sequence that a network takes: a table of positions or a causal mask has an end."""

from __future__ import annotations

from typing import Final

from stateport.contract import Contract

from ..vectors.cases import usual_times
from ..vectors.torch_reference import Network
from .beyond import answers_at
from .comparisons import bisect

#: Every length up to this number of multiples behind the longest is tried: all have to fail.
_DENSE: Final = 8


def longest_time(network: Network, contract: Contract) -> int | None:
    """The largest number of steps in one call; None where the network takes all that are tried.

    The network is run in PyTorch at the longest of the usual lengths. Where it fails there, the end
    is searched for between that and the length that it was traced at. A network that fails at some
    lengths between others has no end.
    """
    if "time" not in network.example.axes:
        return None
    multiple = contract.step_multiple

    def fails(count: int) -> bool:
        return answers_at(network, contract, {"time": count * multiple}) is None

    usual = -(-network.example.sizes["time"] // multiple)
    most = usual_times(contract)[-1] // multiple
    if most <= usual or not fails(most) or fails(usual):
        return None

    first_failing = bisect(usual, most, fails)
    if all(map(fails, _longer(first_failing, most))):
        return (first_failing - 1) * multiple
    return None


def _longer(first: int, most: int) -> list[int]:
    """Numbers above the first: the next ones, and then ever fewer."""
    counts = [*range(first + 1, min(first + _DENSE, most))]
    count = 2 * first
    while count < most:
        counts.append(count)
        count *= 2
    return counts
