"""How far a network is run, and from which size on it runs no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from torch import nn

from ..blame import Line
from ..errors import ExportError

#: Parameters times steps that are run, and the fewest steps: as many as the longest chain has.
_WORK: Final = 20_000_000_000
_FEWEST: Final = 2049
#: What a network computes for every pair of steps fits into memory up to here; a loop's steps are
#: computed one by one.
_MOST: Final = 4097
_MOST_OF_A_LOOP: Final = 8193
#: An axis that is not time is run at fewer steps.
_FEWEST_ROWS: Final = 513
_MOST_ROWS: Final = 4097
#: At shorter lengths a network may fail that takes multiples, or has to fill a window.
_SHORT: Final = 64


def reach(network: nn.Module, axis: str, *, loops: bool = False) -> int:
    """The largest size of an axis that a network of this size is run at.

    `loops` says that it runs over time step by step.
    """
    parameters = max(sum(parameter.numel() for parameter in network.parameters()), 1)
    if axis == "time":
        return max(_FEWEST, min(_WORK // parameters, _MOST_OF_A_LOOP if loops else _MOST))
    return max(_FEWEST_ROWS, min(_WORK // parameters // 8, _MOST_ROWS))


def limit_of(
    axis: str,
    sizes: Mapping[int, bool],
    runs: Callable[[int], bool],
    line: Line | None = None,
) -> int | None:
    """The largest size of an axis that a network runs at, None where it seems to run at any.

    Args:
        axis: its name.
        sizes: those that the network was run at, and whether it could be.
        runs: whether it runs at another size.
        line: where it fails.

    Raises:
        ExportError: it fails at a size, and runs at smaller and larger ones.
    """
    works = [size for size, worked in sizes.items() if worked]
    failing = [size for size, worked in sizes.items() if not worked and size >= _SHORT]
    if not failing or not works:
        return None
    if min(failing) < max(works):
        raise ExportError(
            f"The network fails where {axis!r} is {min(failing)}, and runs at smaller and larger "
            f"sizes{f' ({line})' if line else ''}. A file cannot fail so: it would give numbers "
            "there. Let forward take every size, or every one up to a largest."
        )
    most, least = max(works), min(failing)
    while least - most > 1:
        middle = (most + least) // 2
        most, least = (middle, least) if runs(middle) else (most, middle)
    return most
