# SPDX-License-Identifier: Apache-2.0
"""The shortest sequence that a network takes: a long kernel needs as many steps as it is long."""

from __future__ import annotations

import warnings

import numpy as np

from stateport.contract import Contract

from ..vectors.torch_reference import Network
from .beyond import answers_at


def shortest_time(network: Network, contract: Contract) -> int:
    """The smallest number of steps from which on the network gives answers.

    The network is run in PyTorch. It has no answer where it fails, or gives NaN, as a standard
    deviation over one step does. Lengths are multiples of the contract's `chunk_multiple`.
    """
    multiple = contract.streaming.chunk_multiple
    if "time" not in network.example.axes or _answers(network, contract, multiple):
        return multiple

    # It fails at `failing` multiples and answers at `answering`: the boundary lies between.
    failing, answering = 1, -(-network.example.sizes["time"] // multiple)
    if not _answers(network, contract, answering * multiple):
        return multiple
    while answering - failing > 1:
        middle = (failing + answering) // 2
        if _answers(network, contract, middle * multiple):
            answering = middle
        else:
            failing = middle
    return answering * multiple


def _answers(network: Network, contract: Contract, time: int) -> bool:
    """Whether the network gives numbers for sequences of this length."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the author's, about the length
        answers = answers_at(network, contract, {"time": time})

    if answers is None:
        return False
    return not any(np.isnan(rows.table).any() for rows in answers.values())
