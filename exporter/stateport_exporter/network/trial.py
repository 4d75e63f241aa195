# SPDX-License-Identifier: Apache-2.0
"""Trying whether a network takes a size at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

from ..errors import ExportError
from .example import Example
from .isolation import quiet, unchanged_globals

#: Numbers of steps that networks take at a time: small ones, and what 5 to 100 milliseconds are
#: at 8, 16, 22.05, 44.1 and 48 kHz.
_MULTIPLES: Final = (
    *range(1, 65),
    *(80, 96, 100, 120, 128, 160, 192, 200, 220, 240, 256, 320, 400, 441, 480, 512, 640, 800, 882),
    *(960, 1024, 1600, 2048, 2205, 2400, 4096, 4410, 4800),
)


def runs_at(network: nn.Module, example: Example, sizes: Mapping[str, int]) -> bool:
    """Whether a network runs without an error at these sizes of the example's axes.

    Args:
        network: an `Explicit` network.
        example: its arguments.
        sizes: the sizes that differ from the example's.
    """
    return results_at(network, example, sizes) is not None


def results_at(network: nn.Module, example: Example, sizes: Mapping[str, int]) -> Any | None:
    """What an `Explicit` network returns at these sizes, as in `runs_at`; None if it fails."""
    arguments = example.make({**example.sizes, **sizes})
    with quiet(), unchanged_globals(seed=0), torch.no_grad():
        try:
            return network(*arguments)
        except (Exception, SystemExit):  # the user's forward may raise anything
            return None


def check_any_length(network: nn.Module, example: Example) -> None:
    """Refuses a network that takes only multiples of a number of steps, with that number.

    Call it where a network failed at another length than the example's: every length is expected.

    Args:
        network: an `Explicit` network.
        example: its arguments, at sizes that the network takes.

    Raises:
        ExportError: with the number of steps, and what to do.
    """
    multiple = needed_multiple(network, example)
    if multiple is None or multiple == example.time_multiple:
        return

    time = example.sizes["time"]
    raise ExportError(
        f"The network takes {time} and {time + multiple} steps, and no length between them. A "
        "network may take every length, or multiples of a number of steps. Fill the input up in "
        f"forward, and cut the result off: ({time} - x.shape[1]) % {multiple} is the number of "
        "steps that are missing."
    )


def needed_multiple(network: nn.Module, example: Example) -> int | None:
    """The number of steps by which a sequence may grow; None where it is 1, or unknown."""
    if "time" not in example.axes or not runs_at(network, example, {}):
        return None

    time = example.sizes["time"]
    for more in _MULTIPLES:
        if runs_at(network, example, {"time": time + more}):
            goes_on = runs_at(network, example, {"time": time + 2 * more})
            return more if more > 1 and goes_on else None
    return None
