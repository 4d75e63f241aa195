# SPDX-License-Identifier: Apache-2.0
"""Tensors that a network keeps in attributes and buffers, as arguments and results of it.

A step that its author wrote by hand keeps its state in the module: `self.h = f(x, self.h)`. No
recurrent layer shows such a state, and the tensor often has a batch of its own, as that of one
robot. `Remembering` puts an argument in its place before each call, and returns what is there
afterwards. So the network becomes one that takes and returns its state, with any batch.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import ExportError
from ..network.example import Arguments, Example, Leaf
from ..network.explicit import put_back
from ..network.isolation import evaluation_twin, quiet, unchanged_globals
from ..network.trees import agree, are_alike, are_close, copied_leaves
from .kept import unchanged_shared
from .places import Place, places_of

#: Choices of batch axes that are tried.
_MOST_CHOICES: Final = 64
#: The largest batch that a network is tried at.
_LARGEST_BATCH: Final = 4096
#: The number of calls over which both networks are compared.
_CALLS: Final = 4


@dataclass(frozen=True)
class Remembered:
    """A tensor that a network keeps from call to call.

    Attributes:
        place: where it is.
        name: what the argument for it is called.
        first: what a sequence starts from, with a batch of 1.
        axis: its batch axis; None where the example has a fixed batch, and so the state.
        container: the container in the attribute after the first call, where the author's network
            has none there at first; else None.
    """

    place: Place
    name: str
    first: Tensor
    axis: int | None
    container: Any = None

    def put(self, network: nn.Module, value: Tensor) -> None:
        """Puts a value into its place in a network."""
        if self.container is not None and self.place.attribute.get(network) is None:
            # New lists and dicts, because the network may write into them.
            self.place.attribute.put(network, pytree.tree_map(lambda leaf: leaf, self.container))
        self.place.put(network, value)

    def rows(self, batch: int) -> Tensor:
        """The first value for a batch."""
        sizes = list(self.first.shape)
        if self.axis is not None:
            sizes[self.axis] = batch
        return self.first.expand(sizes).clone()

    @property
    def leaf(self) -> Leaf:
        """The argument that takes it."""
        shape: list[int | str] = list(self.first.shape)
        if self.axis is not None:
            shape[self.axis] = "batch"
        dtype = str(self.first.dtype).removeprefix("torch.")
        return Leaf((self.name,), dtype, tuple(shape))


class Remembering(nn.Module):
    """A network that takes what it remembers as named arguments, and returns what is next.

    Results: those of the network, and behind them a dict of the next values.
    """

    def __init__(self, network: nn.Module, method: str, states: Sequence[Remembered]) -> None:
        super().__init__()
        self.network = network
        self.method = method
        self.states = tuple(states)

    def __deepcopy__(self, memo: dict[int, Any]) -> Remembering:
        copied = type(self)(copy.deepcopy(self.network, memo), self.method, self.states)
        return copied.train(self.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the network's method from the states among `kwargs`."""
        given = {state.name: kwargs.pop(state.name) for state in self.states}

        run = self.network if self.method == "forward" else getattr(self.network, self.method)

        with self._put_back():
            for state in self.states:
                # A copy, because the network may write into it.
                state.put(self.network, given[state.name].clone())
            result = run(*args, **kwargs)
            following = {state.name: state.place.get(self.network) for state in self.states}

        own = result if type(result) is tuple else (result,)
        return (*own, following)

    @contextlib.contextmanager
    def _put_back(self) -> Iterator[None]:
        """Gives the places of the states their former values back."""
        attributes = {state.place.attribute for state in self.states}
        places = [*attributes, *(state.place for state in self.states if not state.container)]
        before = [(place, place.get(self.network)) for place in places]
        try:
            yield
        finally:
            for place, value in before:
                if place.inner and value is None:
                    place.remove(self.network)
                else:
                    place.put(self.network, value)


@dataclass(frozen=True)
class MadeExplicit:
    """A network that takes and returns what it remembers, and its example.

    Attributes:
        network: the network.
        example: the author's example with the states behind its arguments.
        declared: for each state's argument, the result that gives its next value.
    """

    network: Remembering
    example: Example
    declared: Mapping[str, str]


def with_memory_explicit(network: nn.Module, method: str, example: Example) -> MadeExplicit | None:
    """The network with what it remembers as arguments and results.

    None where it remembers nothing, or something that is no tensor with one row for each sequence.
    Where the example has a fixed batch, the tensors are taken as they are.

    Args:
        network: the author's network. It does not change.
        method: the method that is exported.
        example: what the method takes.
    """
    with unchanged_shared(network), quiet(), torch.no_grad():
        return _Search(network, method, example).run()


class _Search:
    """Looks for tensors that a network remembers, by running copies of it."""

    def __init__(self, network: nn.Module, method: str, example: Example) -> None:
        self.network, self.method, self.example = network, method, example
        self.has_batch = "batch" in example.axes
        self.usual_batch = example.sizes["batch"] if self.has_batch else 1

    def run(self) -> MadeExplicit | None:
        batch = self._batch_that_runs()
        if batch is None:
            return None

        read = self._places_read(batch)
        if not read:
            return None
        states = self._states(read, batch)
        if states is None:
            return None

        explicit = self._explicit(states)
        if not self._goes_on_as_author(explicit, batch) or not self._keeps_rows_apart(explicit):
            return None
        example = self.example.with_remembered(
            [state.leaf for state in states], [state.first for state in states]
        )
        results = self._count_results(explicit)
        declared = {state.name: f"{results}.{state.name}" for state in states}
        return MadeExplicit(explicit, example, declared)

    def _arguments(self, batch: int, seed: int) -> Arguments:
        sizes = {**self.example.sizes, "batch": batch} if self.has_batch else self.example.sizes
        return self.example.make(sizes, seed=seed)

    def _call(self, network: nn.Module, batch: int, seed: int) -> list[Any]:
        """The leaves of the results of one call, tensors copied."""
        arguments = self._arguments(batch, seed)
        with unchanged_globals(seed=1):
            result = getattr(network, self.method)(*arguments.args, **arguments.kwargs)
        return copied_leaves(result)

    def _batch_that_runs(self) -> int | None:
        """The first batch at which two calls in a row succeed: the usual one, or a kept one."""
        sizes = [self.usual_batch]
        for place in places_of(self.network):
            value = place.get(self.network)
            if isinstance(value, Tensor):
                sizes += [size for size in value.shape if size <= _LARGEST_BATCH]
        for batch in dict.fromkeys((*sizes, 1)):
            with contextlib.suppress(Exception, SystemExit):  # forward may raise anything
                twin = evaluation_twin(self.network)
                self._call(twin, batch, 1)
                self._call(twin, batch, 2)
                return batch
        return None

    def _places_read(self, batch: int) -> list[Place]:
        """The places whose tensor changes from call to call, and changes what follows."""
        twin = evaluation_twin(self.network)
        self._call(twin, batch, 1)

        changed = []
        for place in places_of(twin):
            if self._is_changed(place, twin):
                changed.append(place)

        read = []
        for place in changed:
            if self._is_read(place, changed, twin, batch):
                read.append(place)
        return read

    def _is_changed(self, place: Place, twin: nn.Module) -> bool:
        """Whether the tensor at a place is another one than before the first call."""
        after = place.get(twin)
        if not isinstance(after, Tensor) or not after.is_floating_point():
            return False
        before = place.get(self.network)
        return not isinstance(before, Tensor) or not _equal(before, after)

    def _is_read(self, place: Place, changed: Sequence[Place], twin: nn.Module, batch: int) -> bool:
        """Whether another tensor at a place gives other results, or another memory elsewhere."""
        usual = evaluation_twin(twin)
        other = evaluation_twin(twin)
        value = place.get(other)
        if not isinstance(value, Tensor):
            raise ExportError(
                f"A copy of the network has lost {place.name!r}, which the network keeps: its "
                "object leaves it out in __getstate__, or has its own __deepcopy__. States are "
                "found by running copies. Keep the tensor in an attribute of the module."
            )
        noise = torch.rand(value.shape, generator=torch.Generator().manual_seed(1))
        place.put(other, value + noise.to(value.dtype) + 0.1)

        expected = self._call(usual, batch, 2)
        expected += [each.get(usual) for each in changed]
        try:
            actual = self._call(other, batch, 2)
        except (Exception, SystemExit):  # forward may raise anything
            return True
        actual += [each.get(other) for each in changed]
        return not _all_equal(expected, actual)

    def _states(self, places: Sequence[Place], batch: int) -> list[Remembered] | None:
        """The states at these places, with the first choice of batch axes that the network takes.

        None where no choice fits.
        """
        twin = evaluation_twin(self.network)
        self._call(twin, batch, 1)
        options = [self._possible_states(place, twin, batch) for place in places]
        for choice in itertools.islice(itertools.product(*options), _MOST_CHOICES):
            states = _with_distinct_names(choice, {leaf.path[0] for leaf in self.example.leaves})
            if self._takes(states):
                return states
        return None

    def _possible_states(self, place: Place, twin: nn.Module, batch: int) -> list[Remembered]:
        """The states that a place may hold, one for each axis that has the size of the batch."""
        first = place.get(self.network)
        later = place.get(twin)
        has_container = bool(place.inner) and place.attribute.get(self.network) is not None
        container = None if has_container or not place.inner else place.attribute.get(twin)
        axes: list[int | None] = [None]
        if self.has_batch:
            axes = [axis for axis, size in enumerate(later.shape) if size == batch]

        states = []
        for axis in axes:
            row = _first_row(first, later, axis)
            if row is not None:
                states.append(Remembered(place, place.name, row, axis, container))
        return states

    def _takes(self, states: Sequence[Remembered]) -> bool:
        """Whether the network runs from these states at other batches, and returns such states."""
        explicit = self._explicit(states)
        for batch in (self.usual_batch, self.usual_batch + 2):
            firsts = {state.name: state.rows(batch) for state in states}
            try:
                _, following = self._step(explicit, batch, 1, firsts)
            except (Exception, SystemExit):  # forward may raise anything
                return False
            differ = any(not _is_like(following[name], first) for name, first in firsts.items())
            if differ:
                return False
        return True

    def _explicit(self, states: Sequence[Remembered]) -> Remembering:
        """The network with states; in messages it is called what its author called it."""
        kind = type(type(self.network).__qualname__, (Remembering,), {})
        explicit: Remembering = kind(self.network, self.method, states)
        return explicit.eval()

    def _step(
        self, explicit: Remembering, batch: int, seed: int, states: Mapping[str, Tensor]
    ) -> tuple[list[Any], dict[str, Tensor]]:
        """The author's results, and the next states."""
        arguments = self._arguments(batch, seed)
        with unchanged_globals(seed=1), put_back(explicit):
            *results, following = explicit(*arguments.args, **arguments.kwargs, **states)
        return copied_leaves(results), {name: value.clone() for name, value in following.items()}

    def _goes_on_as_author(self, explicit: Remembering, batch: int) -> bool:
        """Whether the network's own calls in a row give what it gives with states passed on."""
        twin = evaluation_twin(self.network)
        states = _first_states(explicit, batch)
        for seed in range(1, _CALLS + 1):
            expected = self._call(twin, batch, seed)
            actual, states = self._step(explicit, batch, seed, states)
            if not _all_equal(expected, actual, tolerance=1e-5):
                return False
        return True

    def _keeps_rows_apart(self, explicit: Remembering) -> bool:
        """Whether another first state of one row changes the next states of that row alone."""
        if not self.has_batch:
            return True
        batch = self.usual_batch

        usual = {}
        for state in explicit.states:
            usual[state.name] = state.rows(batch)

        other = {name: value.clone() for name, value in usual.items()}
        for state in explicit.states:
            other[state.name].select(_batch_axis(state), 0).add_(0.25)

        _, expected = self._step(explicit, batch, 1, usual)
        _, actual = self._step(explicit, batch, 1, other)
        for state in explicit.states:
            rest = range(1, batch)
            axis, others = _batch_axis(state), torch.tensor(rest)
            before = expected[state.name].index_select(axis, others)
            after = actual[state.name].index_select(axis, others)
            if not torch.allclose(before, after, rtol=1e-5, atol=1e-6, equal_nan=True):
                return False
        return True

    def _count_results(self, explicit: Remembering) -> int:
        """The number of the author's results, behind which the next states are."""
        batch = self.usual_batch
        arguments = self._arguments(batch, 1)
        states = _first_states(explicit, batch)
        with unchanged_globals(seed=1), put_back(explicit):
            return len(explicit(*arguments.args, **arguments.kwargs, **states)) - 1


def _first_states(explicit: Remembering, batch: int) -> dict[str, Tensor]:
    """The first states by name, with a row for each of a batch."""
    return {state.name: state.rows(batch) for state in explicit.states}


def _batch_axis(state: Remembered) -> int:
    assert state.axis is not None
    return state.axis


def _first_row(first: Any, later: Tensor, axis: int | None) -> Tensor | None:
    """What a sequence starts from, with a batch of 1, where the state has an axis of the batch.

    `first` is what the author left at the place, and `later` the tensor behind the first call. None
    where the rows differ, or the shapes do not fit.
    """
    shape = list(later.shape)
    if axis is not None:
        shape[axis] = 1
    if first is None or type(first) in (int, float):
        return later.new_full(shape, first or 0)
    if not isinstance(first, Tensor) or first.dtype != later.dtype:
        return None

    row = _row_of_all(first.detach(), later, axis)
    if row is None:
        return None
    try:
        return row.expand(shape).clone()
    except RuntimeError:  # of another shape
        return None


def _row_of_all(first: Tensor, later: Tensor, axis: int | None) -> Tensor | None:
    """The row that all rows of a tensor equal; None where they differ.

    It is the tensor itself, where that has no rows of its own.
    """
    has_rows = axis is not None and first.dim() == later.dim()
    if axis is None or not has_rows:
        return first
    row = first.narrow(axis, 0, 1)
    return row if bool((first == row).all()) else None


def _with_distinct_names(states: Sequence[Remembered], taken: set[str]) -> list[Remembered]:
    """The states with names that neither the arguments nor other states have."""
    named: list[Remembered] = []
    used = set(taken)
    for state in states:
        name = state.name
        while name in used:
            name += "_state"
        used.add(name)
        named.append(replace(state, name=name))
    return named


def _is_like(value: Any, reference: Tensor) -> bool:
    """Whether a value is a tensor of a certain shape and dtype."""
    return isinstance(value, Tensor) and are_alike(value, reference)


def _equal(first: Tensor, second: Tensor, tolerance: float = 0.0) -> bool:
    return are_close(first, second, rtol=tolerance, atol=tolerance)


def _all_equal(first: Sequence[Any], second: Sequence[Any], tolerance: float = 0.0) -> bool:
    """Whether two lists of leaves are the same, up to a tolerance."""

    def are_equal(one: Any, other: Any) -> bool:
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            return isinstance(one, Tensor) == isinstance(other, Tensor)
        return _equal(one, other, tolerance)

    return agree(are_equal, first, second)
