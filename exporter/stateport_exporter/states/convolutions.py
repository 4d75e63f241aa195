"""The places where a network needs steps of the call before; see `convolution_steps`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils import _pytree as pytree

from stateport.contract import Axis

from ..network.convolution_steps import Context, ConvolutionStates, Place
from ..network.example import Arguments, Example, Leaf
from ..network.explicit import Explicit
from ..network.isolation import unchanged_globals


@dataclass(frozen=True)
class ConvolutionContexts:
    """What a network needs of former steps.

    Attributes:
        contexts: where.
        leaves: the arguments that the states become.
        initial: the values that they start from, with a batch axis of size 1; None for zeros.
        multiple: by how much the network divides time on its way: a number of which every chunk
            may have to be a multiple.
    """

    contexts: tuple[Context, ...]
    leaves: tuple[Leaf, ...]
    initial: tuple[NDArray[Any] | None, ...]
    multiple: int

    def without_contexts(self) -> ConvolutionContexts:
        """The same, where every call starts anew."""
        return replace(self, contexts=(), leaves=(), initial=())


NO_CONTEXTS: Final = ConvolutionContexts((), (), (), 1)


def find_contexts(explicit: Explicit, example: Example) -> ConvolutionContexts:
    """Runs the network at several sizes, and sees which axis of what is time."""
    time = example.sizes["time"]
    base = _seen(explicit, example, {}, 0)
    if "time" not in example.axes:
        return NO_CONTEXTS
    longer = _seen(explicit, example, {"time": 4 * time}, 1)
    others = {
        axis: _seen(explicit, example, {axis: size + 1}, 1)
        for axis, size in example.sizes.items()
        if axis in example.axes - {"time"}
    }
    multiple = _division(base, longer)
    contexts, leaves, initial = list[Context](), list[Leaf](), list[NDArray[Any] | None]()
    if any(len(run.places) != len(base.places) for run in (longer, *others.values())):
        return replace(NO_CONTEXTS, multiple=multiple)
    for number, place in enumerate(base.places):
        axis = _time_axis(place, longer.places[number])
        if axis is None:
            continue
        like = {name: run.places[number] for name, run in others.items()}
        shape = _axes(place, axis, like)
        value = _first(place, shape, [longer.places[number], *like.values()])
        if shape is None or value is _NOT_CONSTANT:
            continue
        names = [context.name for context in contexts]
        context = Context(number, _name(place, names), axis, place.steps[axis])
        contexts.append(context)
        leaves.append(
            Leaf(("context", f"{number}"), str(place.dtype).removeprefix("torch."), shape)
        )
        initial.append(value)
    return ConvolutionContexts(tuple(contexts), tuple(leaves), tuple(initial), multiple)


_NOT_CONSTANT: Any = object()


def _seen(
    explicit: Explicit, example: Example, sizes: Mapping[str, int], seed: int
) -> ConvolutionStates:
    arguments = _varied(example.make({**example.sizes, **sizes}, seed=seed))
    with (
        unchanged_globals(seed),
        torch.no_grad(),
        _paths(explicit.network, ConvolutionStates()) as frames,
    ):
        explicit(*arguments)
    return frames


def _varied(arguments: Arguments) -> Arguments:
    """The arguments with random numbers for zeros, which would look like padding of forward's own.

    A cache that the author takes as an argument is his to carry.
    """

    def varied(leaf: Any) -> Any:
        constant = isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() > 0
        return (
            torch.randn_like(leaf) if constant and bool((leaf == leaf.flatten()[0]).all()) else leaf
        )

    with unchanged_globals(len(arguments.args)):
        made: Arguments = pytree.tree_map(varied, arguments)
    return made


@contextlib.contextmanager
def _paths(network: nn.Module, frames: ConvolutionStates) -> Iterator[ConvolutionStates]:
    """Keeps `frames.path` the path of the module that runs."""
    paths = {id(module): path for path, module in network.named_modules()}
    stack: list[str] = []

    def enter(module: nn.Module, _: Any) -> None:
        stack.append(frames.path)
        frames.path = paths.get(id(module), frames.path)

    def leave(_module: nn.Module, _args: Any, _result: Any) -> None:
        frames.path = stack.pop()

    with contextlib.ExitStack() as hooks:
        hooks.callback(register_module_forward_pre_hook(enter).remove)
        hooks.callback(register_module_forward_hook(leave, always_call=True).remove)
        with frames:
            yield frames


def _time_axis(place: Place, longer: Place) -> int | None:
    """The axis that grows with time, if steps stand before it."""
    if len(place.shape) != len(longer.shape) or place.kind != longer.kind:
        return None
    pairs = zip(place.shape, longer.shape, strict=True)
    grown = [axis for axis, (a, b) in enumerate(pairs) if a != b]
    if len(grown) != 1:
        return None
    steps = place.steps.get(grown[0], 0)
    return grown[0] if steps and longer.steps.get(grown[0]) == steps else None


def _axes(place: Place, time: int, others: Mapping[str, Place]) -> tuple[Axis, ...] | None:
    """The axes of the state: a size or a name for each; None where one is computed from a size."""
    shape: list[Axis] = [*place.shape]
    shape[time] = place.steps[time]
    for name, other in others.items():
        if len(other.shape) != len(place.shape):
            return None
        for axis, (before, after) in enumerate(zip(place.shape, other.shape, strict=True)):
            if before != after:
                if after != before + 1 or axis == time or isinstance(shape[axis], str):
                    return None
                shape[axis] = name
    return tuple(shape)


def _first(
    place: Place, shape: Sequence[Axis] | None, others: Sequence[Place]
) -> NDArray[Any] | None:
    """What a sequence starts from, with dynamic axes of size 1; None for zeros."""
    if shape is None:
        return None
    if not isinstance(place.first, Tensor):
        sizes = [1 if isinstance(axis, str) else axis for axis in shape]
        first = np.full(sizes, place.first, str(place.dtype).removeprefix("torch."))
        return first if place.first else None
    value = _narrowed(place.first, shape)
    for other in others:
        again = _narrowed(other.first, shape) if isinstance(other.first, Tensor) else None
        if value is None or again is None or not np.array_equal(value, again):
            return _NOT_CONSTANT  # type: ignore[no-any-return]
    return value if value is not None and value.any() else None


def _narrowed(first: Tensor, shape: Sequence[Axis]) -> NDArray[Any] | None:
    """A constant with its dynamic axes cut to one, if it is the same all along them."""
    value: NDArray[Any] = first.numpy()
    for axis, size in enumerate(shape):
        if isinstance(size, str):
            one = value.take([0], axis)
            if not (value == one).all():
                return None
            value = one
    return value


def _name(place: Place, taken: Sequence[str]) -> str:
    base = f"{place.path.replace('.', '_')}_{place.kind}".removeprefix("_")
    names = (base if number == 1 else f"{base}_{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _division(base: ConvolutionStates, longer: ConvolutionStates) -> int:
    """The product of all factors by which sequences get shorter on their way.

    What is no convolution and no pooling, a slice of every second step, says so by its sizes alone.
    """
    factors = []
    pairs = zip(base.sizes, longer.sizes, strict=False)
    for number, ((given, made), (given2, made2)) in enumerate(pairs):
        grown = {i: b - a for i, (a, b) in enumerate(zip(given, given2, strict=False)) if b != a}
        after = [b - a for a, b in zip(made, made2, strict=False) if b != a]
        if len(grown) != 1:
            continue
        ((axis, growth),) = grown.items()
        if number in base.strides:
            factors.append(base.strides[number].get(axis, 1))
        elif len(after) == 1 and 0 < after[0] < growth:
            factors.append(round(growth / after[0]))
    return prod(factors)
