"""Arguments and results that look like states, and were not taken as such."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from stateport.contract import Axis, describe

from .names import is_surely_a_state
from .pairs import Port, agree


@dataclass(frozen=True)
class PossibleState:
    """An argument and a result that look like a state, and were not taken as one.

    Both are called as `states` of `export` takes them. They have this dtype, and this shape: a size
    or the name of an axis for each dimension.
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
    """The pairs that may be taken for states, of arguments and results that are none so far.

    The first argument is what the network is fed, unless it has a name that only states have.
    """
    for argument, result in itertools.product(arguments, results):
        through = argument.leads and not is_surely_a_state(argument.path)
        if argument.kind != result.kind or "time" in argument.kind or through:
            continue
        if agree(argument, result):
            yield argument, result


def possible_states(left: Iterable[tuple[Port, Port]]) -> tuple[PossibleState, ...]:
    """Pairs that were not taken, in the words of `export`."""
    possible = []
    for argument, result in left:
        value = argument.value
        dtype = "unknown" if value.dtype is None else value.dtype.numpy().name
        shape = tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape or ())
        possible.append(PossibleState(".".join(argument.path), result.called, dtype, shape))
    return tuple(possible)
