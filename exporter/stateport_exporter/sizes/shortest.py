# SPDX-License-Identifier: Apache-2.0
"""The shortest sequences that a network and its file take: a long kernel needs as many steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import filterfalse
from typing import Final

import numpy as np
import torch
from torch import nn

from stateport.contract import Contract

from ..network.example import Example
from ..network.isolation import evaluation_twin, quiet, unchanged_globals
from ..network.trees import tensors_in
from ..vectors.torch_reference import Network
from .beyond import answers_at, wrong_shape
from .comparisons import bisect

#: Up to this number of multiples every length is tried, and as many above the shortest.
_DENSE: Final = 16


def shortest_chunk(network: Network, contract: Contract) -> int:
    """The smallest multiple of steps from which on the network gives answers.

    The network is run in PyTorch, at lengths up to the one that it was traced at. It has no answer
    where it fails, or gives NaN, as a standard deviation over one step does. Where results have
    another shape than the contract says, as those of a slice of a fixed length, it has no answer
    that the graph can give. Lengths are multiples of the contract's `step_multiple`.
    """
    multiple = contract.step_multiple
    if "time" not in network.example.axes:
        return multiple

    def answers(count: int) -> bool:
        return _answers(network, contract, count * multiple)

    largest = -(-network.example.sizes["time"] // multiple)
    if not answers(largest):
        return multiple
    return _smallest_count(answers, largest) * multiple


def fewest_steps(network: Network, contract: Contract) -> int:
    """The fewest steps of a whole sequence that the network takes.

    It may be shorter than the shortest chunk: a convolution over 4 samples takes 5 and 6 too,
    whatever its stride.
    """
    chunk = shortest_chunk(network, contract)
    if "time" in dict(contract.multiples):
        return chunk  # no length between two multiples is taken

    any_length = replace(contract, streaming=replace(contract.streaming, chunk_multiple=1))
    return bisect(
        chunk - contract.step_multiple, chunk, lambda time: _answers(network, any_length, time)
    )


def refused_lengths(
    module: nn.Module, method: str, example: Example, contract: Contract
) -> tuple[str, ...]:
    """A note where the author's network takes sequences of other lengths than the file does.

    A loop that begins with its third step is none in a sequence of two.
    """
    multiple = dict(contract.multiples).get("time", 1)
    if multiple > 1:
        refused = max(example.sizes["time"] // multiple, 1) * multiple + 1
        takes = f"of multiples of {multiple} steps alone"
    else:
        refused = dict(contract.minimums).get("time", 1) - 1
        takes = f"of {refused + 1} steps or more"

    if refused < 1 or not _gives_numbers(module, method, example, refused):
        return ()
    return (f"the file takes sequences {takes}, while forward takes others, too",)


def _gives_numbers(module: nn.Module, method: str, example: Example, time: int) -> bool:
    """Whether the author's network takes sequences of a length, and no result is NaN."""
    arguments = example.make({**example.sizes, "time": time})
    run = getattr(evaluation_twin(module), method)
    with unchanged_globals(seed=0), quiet(), torch.no_grad():
        try:
            results = tensors_in(run(*arguments.args, **arguments.kwargs))
        except Exception:  # whatever forward raises
            return False
    return not any(bool(result.isnan().any()) for result in results)


def _smallest_count(answers: Callable[[int], bool], largest: int) -> int:
    """The smallest number from which on all that are tried answer; `largest` does."""
    failing = [*filterfalse(answers, _tried(largest))]
    if not failing:
        return 1

    before = max(failing)
    while True:
        after = bisect(before, min(n for n in _tried(largest) if n > before), answers)
        # A network may fail again at a few lengths above the first that it takes.
        above = range(after + 1, min(after + _DENSE, largest))
        failing = [*filterfalse(answers, above)]
        if not failing:
            return after
        before = max(failing)


def _tried(largest: int) -> list[int]:
    """The numbers that are tried: all small ones, and then ever fewer."""
    counts = [*range(1, min(_DENSE, largest) + 1), largest]
    count = _DENSE
    while count < largest:
        counts.append(count)
        count += count // 2
    return sorted({*counts})


def _answers(network: Network, contract: Contract, time: int) -> bool:
    """Whether the network gives numbers, of the contract's shapes, for sequences of this length."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the author's, about the length
        answers = answers_at(network, contract, {"time": time})

    if answers is None or wrong_shape(network, contract, {"time": time}, answers) is not None:
        return False
    return not any(np.isnan(rows.table).any() for rows in answers.values())
