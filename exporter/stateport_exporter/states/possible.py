# SPDX-License-Identifier: Apache-2.0
"""Arguments and results that look like states, and were not taken as such."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap

from stateport.contract import Axis, describe

from ..graph.dataflow import dtype_of, shape_of
from .names import is_surely_a_state
from .pairs import Port, agree


@dataclass(frozen=True)
class PossibleState:
    """An argument and a result that look like a state, and were not taken as one.

    Attributes:
        argument: the argument, as `states` of `export` takes it.
        result: the result, as `states` of `export` takes it.
        dtype: the dtype of both, "float32".
        shape: the shape of both: a size or the name of an axis for each dimension.
    """

    argument: str
    result: str
    dtype: str
    shape: tuple[Axis, ...]

    def __str__(self) -> str:
        return (
            f"argument {self.argument!r} and result {self.result!r} have the same shape, "
            f"{describe(self.dtype, self.shape)}, and were not taken as a state"
        )


def alike(arguments: Sequence[Port], results: Sequence[Port]) -> Iterator[tuple[Port, Port]]:
    """The pairs that may be states, of arguments and results that are none so far.

    The first argument is what the network is fed, unless it has a name that only states have.
    """
    for argument, result in itertools.product(arguments, results):
        is_input = argument.leads and not is_surely_a_state(argument.path)
        if is_input or "time" in argument.kind:
            continue
        if argument.kind == result.kind and agree(argument, result):
            yield argument, result


def possible_states(pairs: Iterable[tuple[Port, Port]]) -> tuple[PossibleState, ...]:
    """Pairs that were not taken as states, named as `export` takes them."""
    return tuple(starmap(_possible_state, pairs))


def _possible_state(argument: Port, result: Port) -> PossibleState:
    name = ".".join(argument.path)
    value = argument.value
    return PossibleState(name, result.called, dtype_of(value), shape_of(value))
