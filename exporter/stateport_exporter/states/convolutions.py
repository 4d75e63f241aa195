# SPDX-License-Identifier: Apache-2.0
"""Where a network needs something of the call before; see `network.convolution_steps`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from math import prod
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils import _pytree as pytree

from stateport.axes import of_one_row
from stateport.contract import Axis

from ..graph.free_names import free_name
from ..network.blame import paths_of
from ..network.convolution_steps import Context, ConvolutionStates, Place
from ..network.example import Arguments, Example, Leaf
from ..network.explicit import Explicit
from ..network.isolation import unchanged_globals
from ..network.running_values import COUNT, SUM
from .start_values import are_same, differing_axis, one_row

#: What a sequence starts from, with dynamic axes of size 1; None for zeros.
Start = NDArray[Any] | None


@dataclass(frozen=True)
class ConvolutionContexts:
    """The steps of the call before that a network needs.

    Attributes:
        contexts: the places in the network.
        leaves: the arguments that the states become.
        initial: the values that they start from, with a batch axis of size 1; None for zeros.
        multiple: by how much the network divides time on its way: a number of which every chunk
            may have to be a multiple.
    """

    contexts: tuple[Context, ...]
    leaves: tuple[Leaf, ...]
    initial: tuple[Start, ...]
    multiple: int

    def without_contexts(self) -> ConvolutionContexts:
        """The same for a network that gets no steps of the call before."""
        return replace(self, contexts=(), leaves=(), initial=())

    def running_values(self) -> frozenset[str]:
        """The names of the states that are no steps, but what was computed from all of them."""
        return frozenset(each.name for each in self.contexts if each.kind in (SUM, COUNT))

    def without(self, *kinds: str) -> ConvolutionContexts:
        """The same for a network that gets nothing of these kinds of the call before."""
        kept = [each.kind not in kinds for each in self.contexts]
        return replace(
            self,
            contexts=tuple(compress(self.contexts, kept)),
            leaves=tuple(compress(self.leaves, kept)),
            initial=tuple(compress(self.initial, kept)),
        )


NO_CONTEXTS: Final = ConvolutionContexts((), (), (), 1)
#: Half of the usual steps tells something where it is at least as many.
_MANY: Final = 8


def find_contexts(explicit: Explicit, example: Example) -> ConvolutionContexts:
    """Runs the network at several sizes, and finds the places that need steps of the call before.

    A size that changes with the length of the input shows which axis is time.
    """
    usual = _run_at(explicit, example, {}, 0)
    if "time" not in example.axes:
        return NO_CONTEXTS

    more, (longer, *others) = _run_at_other_times(explicit, example)

    wider = {}
    for axis in _other_axes(example):
        wider[axis] = _run_at(explicit, example, {axis: example.sizes[axis] + 1}, 1)

    multiple = _time_division(usual, longer, more)
    counts = {len(run.places) for run in (usual, longer, *others, *wider.values())}
    if len(counts) > 1:  # it is not clear which place is which
        return replace(NO_CONTEXTS, multiple=multiple)

    contexts = list[Context]()
    leaves = list[Leaf]()
    initial = list[Start]()
    for number, place in enumerate(usual.places):
        at_other_sizes = {name: run.places[number] for name, run in wider.items()}
        state = _state_at(place, longer.places[number], at_other_sizes)
        if state is None:
            continue

        base = f"{place.path.replace('.', '_')}_{place.kind}".removeprefix("_")
        name = free_name(base, [context.name for context in contexts], "_")
        dtype = str(place.dtype).removeprefix("torch.")
        steps = int(place.steps[state.axis])
        contexts.append(Context(number, name, state.axis, steps, place.kind))
        leaves.append(Leaf(("context", f"{number}"), dtype, state.shape))
        initial.append(state.start)
    return ConvolutionContexts(tuple(contexts), tuple(leaves), tuple(initial), multiple)


def _other_axes(example: Example) -> list[str]:
    """The dynamic axes besides time."""
    names = []
    for axis in example.sizes:
        if axis in example.axes and axis != "time":
            names.append(axis)
    return names


def _run_at_other_times(
    explicit: Explicit, example: Example
) -> tuple[int, list[ConvolutionStates]]:
    """Runs the network over more steps than usual: by how many in the first run, and the runs.

    Where it does not take many more, it also runs over half as many as usual, if those are not few:
    rounds over a sequence, as of a scan, are of one number between powers of two alone.
    """
    time, multiple = example.sizes["time"], example.time_multiple
    for longer in (4 * time, 2 * time):
        with contextlib.suppress(Exception):  # the user's forward may raise anything
            return longer - time, [_run_at(explicit, example, {"time": longer}, 1)]

    runs = [_run_at(explicit, example, {"time": time + multiple}, 1)]
    half = time // 2 // multiple * multiple
    if half >= _MANY:
        with contextlib.suppress(Exception):
            runs.append(_run_at(explicit, example, {"time": half}, 1))
    return multiple, runs


def _run_at(
    explicit: Explicit, example: Example, sizes: Mapping[str, int], seed: int
) -> ConvolutionStates:
    """Runs the network with some sizes changed; what was seen of its convolutions."""
    arguments = _without_constants(example.make({**example.sizes, **sizes}, seed=seed))
    with (
        unchanged_globals(seed),
        torch.no_grad(),
        _with_paths(explicit.network, ConvolutionStates()) as seen,
    ):
        explicit(*arguments)
    return seen


def _without_constants(arguments: Arguments) -> Arguments:
    """The arguments with random numbers in place of zeros and other constants.

    In forward, an argument of zeros would look like padding. But the author, who takes a cache as
    an argument, carries it himself.
    """

    def with_noise(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.numel() == 0:
            return leaf
        is_constant = bool((leaf == leaf.flatten()[0]).all())
        if is_constant:
            return torch.randn_like(leaf)
        return leaf

    with unchanged_globals(len(arguments.args)):
        varied: Arguments = pytree.tree_map(with_noise, arguments)
    return varied


@contextlib.contextmanager
def _with_paths(network: nn.Module, seen: ConvolutionStates) -> Iterator[ConvolutionStates]:
    """Keeps `seen.path` the path of the module that runs."""
    paths = paths_of(network)
    outer_paths: list[str] = []

    def enter(module: nn.Module, _: Any) -> None:
        outer_paths.append(seen.path)
        seen.path = paths.get(id(module), seen.path)

    def leave(_module: nn.Module, _args: Any, _result: Any) -> None:
        seen.path = outer_paths.pop()

    with contextlib.ExitStack() as hooks:
        hooks.callback(register_module_forward_pre_hook(enter).remove)
        hooks.callback(register_module_forward_hook(leave, always_call=True).remove)
        with seen:
            yield seen


@dataclass(frozen=True)
class _State:
    """The state that a place in the network gets: its axis of time, its axes, and its start."""

    axis: int
    shape: tuple[Axis, ...]
    start: Start


def _state_at(place: Place, longer: Place, wider: Mapping[str, Place]) -> _State | None:
    """The state for a place; None where no steps of the call before belong there.

    `longer` is the same place in a longer run, and `wider` with one other axis longer by 1.
    """
    axis = _time_axis(place, longer)
    if axis is None:
        return None

    shape = _state_axes(place, axis, wider)
    if shape is None or not _starts_alike(place, shape, [longer, *wider.values()]):
        return None
    return _State(axis, shape, _start(place, shape))


def _time_axis(place: Place, longer: Place) -> int | None:
    """The axis that grows with time, if there are steps before the sequence along it."""
    ranks_differ = len(place.shape) != len(longer.shape)
    kinds_differ = place.kind != longer.kind
    if ranks_differ or kinds_differ:
        return None

    sizes = enumerate(zip(place.shape, longer.shape, strict=True))

    grown = []
    for axis, (size, longer_size) in sizes:
        if size != longer_size:
            grown.append(axis)

    if len(grown) != 1:
        return None

    steps = place.steps.get(grown[0], 0)
    has_same_steps = longer.steps.get(grown[0]) == steps
    if steps and has_same_steps:
        return grown[0]
    return None


def _state_axes(place: Place, time: int, wider: Mapping[str, Place]) -> tuple[Axis, ...] | None:
    """The axes of the state: a size or a name for each; None where one is computed from a size."""
    shape: list[Axis] = [*place.shape]
    shape[time] = int(place.steps[time])  # a tensor where a padding is a buffer

    for name, wider_place in wider.items():
        if len(wider_place.shape) != len(place.shape):
            return None

        for axis, (size, wider_size) in enumerate(zip(place.shape, wider_place.shape, strict=True)):
            if wider_size == size:
                continue
            is_named_already = isinstance(shape[axis], str)
            if wider_size != size + 1 or axis == time or is_named_already:
                return None
            shape[axis] = name
    return tuple(shape)


def _starts_alike(place: Place, shape: Sequence[Axis], runs: Sequence[Place]) -> bool:
    """Whether every sequence starts from the same steps at this place, at all sizes."""
    if not isinstance(place.first, Tensor):
        return True  # a number

    value = place.first.numpy()
    if differing_axis(value, shape) is not None:
        return False
    return all(_starts_from(one_row(value, shape), run, shape) for run in runs)


def _starts_from(start: NDArray[Any], place: Place, shape: Sequence[Axis]) -> bool:
    """Whether sequences start from these steps, for all rows, at a place."""
    if not isinstance(place.first, Tensor):
        return False
    value = place.first.numpy()
    if differing_axis(value, shape) is not None:
        return False
    row = one_row(value, shape)
    return start.shape == row.shape and are_same(start, row)


def _start(place: Place, shape: Sequence[Axis]) -> Start:
    """The steps that a sequence starts from; None for zeros."""
    if isinstance(place.first, Tensor):
        start = one_row(place.first.numpy(), shape)
        return start if start.any() else None

    if not place.first:
        return None
    return np.full(of_one_row(shape), place.first, str(place.dtype).removeprefix("torch."))


def _time_division(usual: ConvolutionStates, longer: ConvolutionStates, more: int) -> int:
    """The product of all factors by which sequences get shorter on their way.

    Functions that shorten sequences of the same length by the same factor count once.

    Args:
        usual: a run.
        longer: a run over more steps.
        more: by how many more.
    """
    shortenings = set[tuple[int, int]]()
    runs = zip(usual.sizes, longer.sizes, strict=False)
    for number, (shapes, longer_shapes) in enumerate(runs):
        growth = _growth(shapes[0], longer_shapes[0])
        if len(growth) != 1:
            continue

        ((axis, steps),) = growth.items()
        strides = usual.strides.get(number)
        if strides is not None:
            factor = strides.get(axis, 1)
        else:
            length = shapes[0][axis]
            factor = _factor(length, steps, shapes[1], longer_shapes[1], more)
        shortenings.add((steps, factor))
    return prod(factor for _, factor in shortenings)


def _factor(
    length: int, steps: int, result: tuple[int, ...], longer: tuple[int, ...], more: int
) -> int:
    """By which factor a function without strides makes a sequence shorter, such as `x[:, ::2]`.

    Args:
        length: of the sequence.
        steps: by how many it is longer in a longer run.
        result: the shape of the function's result.
        longer: the same in the longer run.
        more: by how many steps the whole run is longer.
    """
    growth = _growth(result, longer)
    if len(growth) != 1:
        return 1

    ((axis, fewer_steps),) = growth.items()
    # An axis of batch and time together grows more than time does.
    if not 0 < fewer_steps < min(steps, more):
        return 1
    factor = round(steps / fewer_steps)
    # A window grows less too, up to its full length. But it is not shorter in the usual run.
    is_shorter = result[axis] <= length / factor + 2
    return factor if is_shorter else 1


def _growth(shape: Sequence[int], longer: Sequence[int]) -> dict[int, int]:
    """By how much each axis is longer, for those that are."""
    differences = (after - before for before, after in zip(shape, longer, strict=False))

    grown = {}
    for axis, difference in enumerate(differences):
        if difference:
            grown[axis] = difference
    return grown
