# SPDX-License-Identifier: Apache-2.0
"""Trying whether a network takes a size at all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .example import Example
from .isolation import quiet, unchanged_globals


def runs_at(network: nn.Module, example: Example, sizes: Mapping[str, int]) -> bool:
    """Whether a network runs without an error at these sizes of the example's axes.

    Args:
        network: an `Explicit` network.
        example: its arguments.
        sizes: the sizes that differ from the example's.
    """
    arguments = example.make({**example.sizes, **sizes})
    with quiet(), unchanged_globals(seed=0), torch.no_grad():
        try:
            network(*arguments)
        except (Exception, SystemExit):  # the user's forward may raise anything
            return False
    return True
