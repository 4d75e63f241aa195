"""A network as it will be many calls later."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..authors import authored, constants_in, names_in
from ..example import Arguments
from ..explicit import Calls
from ..guard import evaluation_twin, unchanged_globals
from ..sizes.foreseen import ANYTHING, GRID, Decision, Watch, foresee
from .clocks import clocks_ahead
from .slots import put_back_shared, slots

#: What grows by its length.
CONTAINERS: Final = (list, tuple, deque, dict, set, str, bytes, bytearray)
#: What a number that grows unevenly may be later.
_SOME: Final = (0, 1, -1, 7, 1000, 10**6, -(10**6))
#: Containers are not made longer than by so much.
_MOST_ITEMS: Final = 1 << 15

Places = list[tuple[dict[str, Any], str]]


@dataclass(frozen=True)
class Later:
    """A network behind some calls, and how what it keeps grows with each further one.

    `steps` has by how much each slot grows, None where it grows unevenly; `clocks` is where its
    code reads clocks, which are as many seconds ahead.
    """

    network: nn.Module
    method: str
    arguments: Arguments
    steps: Mapping[str, Any]
    clocks: Places

    def results(self, calls: int) -> list[Tensor]:
        """What two calls give after so many further ones; whatever the network raises."""

        def grow(value: Any, step: Any) -> Any:
            if isinstance(value, CONTAINERS):
                return _longer(value, min(int(calls * (1 if step is None else step)), _MOST_ITEMS))
            if calls and step is None and isinstance(value, int | float):
                return type(value)(_SOME[calls % len(_SOME)])
            return value if step is None else value + step * calls

        with self._as_it_is(grow) as network, clocks_ahead(self.clocks, calls):
            return [*self._run(network), *self._run(network)]

    def decisions(self) -> list[Decision]:
        """What is decided by what grows, in any of the further calls."""
        watch, lengths = Watch(), dict[int, Any]()

        def grow(value: Any, step: Any) -> Any:
            if isinstance(value, CONTAINERS):
                most = value.maxlen if isinstance(value, deque) and value.maxlen else np.inf
                later = np.minimum(len(value) + (GRID - 1) * (step or 0), most)
                lengths[id(value)] = foresee(len(value), later, watch)
                return value
            if isinstance(value, np.integer | np.floating):
                value = value.item()
            if not isinstance(value, int | float):
                return value
            later = np.array(ANYTHING) if step is None else value + (GRID - 1) * step
            return foresee(value, later, watch)

        with (
            self._as_it_is(grow) as network,
            clocks_ahead(self.clocks, 0, watch),
            _counted_lengths(network, lengths),
            contextlib.suppress(Exception, SystemExit),
        ):
            self._run(network)
            self._run(network)
        return watch.decisions

    def constants(self) -> set[float]:
        """The numbers in the author's code, which something may be compared with unseen."""
        codes = [function.__code__ for function in authored(self.network).functions]
        every = frozenset[Any]().union(*map(constants_in, codes))
        return {one for one in every if type(one) in (int, float)}

    @contextlib.contextmanager
    def _as_it_is(self, grow: Callable[[Any, Any], Any]) -> Iterator[nn.Module]:
        """A copy in which every slot that grows holds what `grow` makes of it."""
        with put_back_shared(self.network):
            network = evaluation_twin(self.network)
            named = slots(network)
            for name, step in self.steps.items():
                if name in named:
                    named[name].put(grow(named[name].value, step))
            yield network

    def _run(self, network: nn.Module) -> list[Tensor]:
        return run(network, self.method, self.arguments)


def run(network: nn.Module, method: str, arguments: Arguments) -> list[Tensor]:
    """One call of a network, as its author would make it."""
    with unchanged_globals(seed=1):
        return call(network, method, arguments)


def call(network: nn.Module, method: str, arguments: Arguments) -> list[Tensor]:
    """As `run`, with the random generators as they are."""
    with torch.no_grad():
        given = arguments.args, arguments.kwargs
        returned = Calls({}).run(getattr(network, method), *given)
    return [leaf.clone() for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]


def turning_calls(decisions: Sequence[Decision]) -> list[int]:
    """After how many calls one of the next two decides something otherwise."""
    turning: set[int] = set()
    for decision in decisions:
        edges = np.flatnonzero(decision.outcomes[1:] != decision.outcomes[:-1]) + 1
        turning |= {int(GRID[edge]) - 2 for edge in (*edges[:3], *edges[-1:])}
    return sorted(calls for calls in turning if calls > 0)


def _longer(value: Any, count: int) -> Any:
    """A container with so many more items: the last one again, or keys that nobody asks for."""
    if isinstance(value, str | bytes | tuple):
        longer: Any = value[-1:] * count
        return value + longer
    if isinstance(value, dict):
        value.update({object(): None for _ in range(count)})
    elif isinstance(value, set):
        value.update(object() for _ in range(count))
    elif value:
        value.extend([value[-1]] * count)
    return value


@contextlib.contextmanager
def _counted_lengths(network: nn.Module, lengths: Mapping[int, Any]) -> Iterator[None]:
    """`len` of these containers gives these numbers, wherever the network's author calls it."""

    def length(value: Any) -> Any:
        return lengths.get(id(value), None) or len(value)

    changed = []
    try:
        for function in authored(network).functions:
            names = function.__globals__
            if "len" in names_in(function.__code__) and "len" not in names:
                names["len"] = length
                changed.append(names)
        yield
    finally:
        for names in changed:
            del names["len"]
