# SPDX-License-Identifier: Apache-2.0
"""States that cannot be any numbers: a running variance is never negative."""

from __future__ import annotations

import numpy as np
import torch

from stateport.contract import Contract
from stateport.parity.vectors import Case

from ..errors import ExportError
from ..network.isolation import unchanged_globals
from .cases import case_of
from .torch_reference import Network, run_reference

#: Enough rows that random states of one number each have all signs.
_BATCH = 16


def from_reachable_states(network: Network, contract: Contract) -> Network:
    """The network, whose cases start from states that it reaches where random ones are none.

    They are none where the network answers NaN to them, and numbers to a sequence from its start.
    """
    if not contract.states:
        return network

    time = network.example.sizes["time"] if "time" in network.example.axes else 1
    from_random, from_start = (
        case_of(network, contract, "whole", [time], _BATCH, start) for start in ("random", "zeros")
    )
    with unchanged_globals(seed=0), torch.no_grad():
        if _answers_numbers(network, contract, from_random):
            return network
        if not _answers_numbers(network, contract, from_start):
            return network

    return network.starting_from_reached({spec.input for spec in contract.states})


def _answers_numbers(network: Network, contract: Contract, case: Case) -> bool:
    """Whether no answer is NaN; a network that fails at this batch is tried elsewhere."""
    try:
        answers = run_reference(network, contract, case)
    except ExportError:
        return True
    return not any(np.isnan(rows.table).any() for rows in answers.values())
