# SPDX-License-Identifier: Apache-2.0
"""A network that gets the last steps of the calls before, in front of those of this call.

Attention over the last w steps, a difference of neighbours, a moving maximum: such a network looks
back, but never further than a number of steps. `Windowed` keeps that many steps of each input, and
computes their outputs once more. So each call gives what the whole sequence gives, whatever it is
that looks back.

At the beginning of a sequence the windows are not full, and rows of a batch may have begun at
different times. So the steps of a row are moved to the front: first those that the row has had,
then those of this call, then steps that mean nothing. A causal network computes its first outputs
without looking at them. Recurrent layers get the steps of this call alone, because their states go
on by themselves; what they gave before has windows too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from stateport.picking import present

from .example import Leaf
from .explicit import LAYERS
from .program import Body
from .running_values import LOOPS, SUMS, run_as_loop, values_of, with_dim, with_values
from .scan import scan
from .trees import tensor_positions

#: The functions that run over time.
OVER_TIME: Final = frozenset({*LAYERS, *LOOPS, *SUMS, scan})
#: The argument with the number of steps that the windows hold: int64, one for each row.
STEPS: Final = "window_steps"


@dataclass(frozen=True)
class Stretch:
    """A tensor over time.

    Attributes:
        batch: its batch axis.
        time: its time axis.
        up: for `down` steps of the inputs it has `up`.
        down: likewise.
    """

    batch: int
    time: int
    up: int = 1
    down: int = 1

    def steps(self, count: Any) -> Any:
        """The number of its steps for a number of steps of the inputs."""
        return count * self.up // self.down

    def join(self, window: Tensor, new: Tensor, steps: Tensor) -> Tensor:
        """The valid steps of the window, the new steps, and then such as mean nothing."""
        whole = torch.cat([window, new], self.time)
        spare = window.shape[self.time] - self.steps(steps)
        numbers = torch.arange(whole.shape[self.time])
        return self._take(whole, torch.minimum(numbers + spare[:, None], numbers[-1:]))

    def cut(self, whole: Tensor, steps: Tensor, count: Any) -> Tensor:
        """The new steps of what `join` gave, or of what the network made of it."""
        return self._take(whole, self.steps(steps)[:, None] + torch.arange(self.steps(count)))

    def end(self, window: Tensor, new: Tensor) -> Tensor:
        """The next window: the last steps of the window and the new ones."""
        whole = torch.cat([window, new], self.time)
        size = window.shape[self.time]
        return whole.narrow(self.time, whole.shape[self.time] - size, size)

    def _take(self, tensor: Tensor, index: Tensor) -> Tensor:
        """The steps with these numbers, of shape (batch, steps), for each row."""
        axes = (self.batch, self.time)
        rows = tensor.movedim(axes, (0, 1))

        # All rows behind one another: some engines gather along one axis alone.
        steps = rows.flatten(0, 1)
        firsts = torch.arange(steps.shape[0]).reshape(rows.shape[0], -1)[:, :1]
        taken = steps.index_select(0, (firsts + index).flatten())
        return taken.reshape(-1, index.shape[1], *rows.shape[2:]).movedim((0, 1), axes)


@dataclass(frozen=True)
class Window:
    """One window.

    Attributes:
        name: the name of its argument.
        stretch: how it stretches over time.
        shape: the shape of what it is a window of.
        dtype: its dtype.
    """

    name: str
    stretch: Stretch
    shape: tuple[int | str, ...]
    dtype: str

    def leaf(self, steps: int) -> Leaf:
        """The argument, for windows of so many steps of the inputs."""
        shape = list(self.shape)
        shape[self.stretch.time] = self.stretch.steps(steps)
        shape[self.stretch.batch] = "batch"
        return Leaf((self.name,), self.dtype, tuple(shape))


@dataclass(frozen=True)
class LayerSteps:
    """Where a recurrent layer or a loop over time has steps.

    Attributes:
        takes: how each tensor that it takes steps from stretches over time.
        gives: the windows of what it gives.
        is_fixed: whether it is a running sum that is the same whatever the inputs hold, as a sum of
            numbers of steps.
    """

    takes: tuple[Stretch, ...]
    gives: tuple[Window, ...]
    is_fixed: bool = False


@dataclass(frozen=True)
class Layout:
    """Where a network has steps.

    Attributes:
        inputs: the windows of its inputs, by their position among all tensors of the arguments.
        layers: its recurrent layers and loops, in the order in which they run; None for a loop that
            does not run over time, or begins again in every call.
        outputs: for each tensor among its results, how it stretches over time; None if it does not.
        left_out: the names of windows that nothing looks back at.
    """

    inputs: Mapping[int, Window]
    layers: tuple[LayerSteps | None, ...]
    outputs: tuple[Stretch | None, ...]
    left_out: frozenset[str] = frozenset()

    @property
    def windows(self) -> list[Window]:
        """The windows that are arguments."""
        windows = [*self.inputs.values()]
        for layer in self.layers:
            windows += layer.gives if layer else ()
        return [window for window in windows if window.name not in self.left_out]

    @property
    def divisions(self) -> list[int]:
        """By how much time is divided where the network has steps."""
        stretches = present(self.outputs)
        for layer in self.layers:
            stretches += layer.takes if layer else ()
        return [stretch.down for stretch in stretches]

    def without(self, window: Window) -> Layout:
        """The same, where nothing looks back at what this is a window of."""
        return replace(self, left_out=self.left_out | {window.name})

    def beginning_again(self, number: int) -> Layout:
        """The same, where a running sum begins with the first step of the windows."""
        layers = list(self.layers)
        layers[number] = None
        return replace(self, layers=tuple(layers))

    def leaves(self, size: int) -> list[Leaf]:
        """The arguments that hold windows of `size` steps, and the number of valid steps."""
        leaves = [window.leaf(size) for window in self.windows]
        return [*leaves, Leaf((STEPS,), "int64", ("batch",))]


class Windowed(nn.Module):
    """A network that takes windows as named arguments, and returns the next ones.

    Results: those of the network, and behind them a dict of the next windows.

    Args:
        network: the author's network.
        method: the method that is run.
        layout: where it has steps.
        size: the number of steps of the inputs that it looks back.
    """

    def __init__(self, network: nn.Module, method: str, layout: Layout, size: int) -> None:
        super().__init__()
        self.network = network
        self.method = method
        self.layout = layout
        self.size = size

    def __deepcopy__(self, memo: dict[int, Any]) -> Windowed:
        copied = type(self)(copy.deepcopy(self.network, memo), self.method, self.layout, self.size)
        return copied.train(self.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the network on the steps of the windows and of this call."""
        windows = {window.name: kwargs.pop(window.name) for window in self.layout.windows}
        steps = kwargs.pop(STEPS)
        leaves, structure = pytree.tree_flatten((args, kwargs))
        following: dict[str, Tensor] = {}

        time: Any = None
        positions = tensor_positions(leaves)
        for number, window in self.layout.inputs.items():
            new, stretch = leaves[positions[number]], window.stretch
            time = new.shape[stretch.time]
            leaves[positions[number]] = stretch.join(windows[window.name], new, steps)
            following[window.name] = stretch.end(windows[window.name], new)

        args, kwargs = pytree.tree_unflatten(leaves, structure)
        run = self.network if self.method == "forward" else getattr(self.network, self.method)
        layers = _LayerWindows(self.layout.layers, windows, self.size, steps, time)
        with layers:
            result = run(*args, **kwargs)

        following.update(layers.following)
        following[STEPS] = torch.minimum(steps + time, torch.full_like(steps, self.size))
        result = self._this_calls_steps(result, steps, time)
        own = result if type(result) is tuple else (result,)
        return (*own, following)

    def _this_calls_steps(self, result: Any, steps: Tensor, time: Any) -> Any:
        """The results without the steps of the windows."""
        leaves, structure = pytree.tree_flatten(result)
        stretches = iter(self.layout.outputs)
        for position, leaf in enumerate(leaves):
            stretch = next(stretches) if isinstance(leaf, Tensor) else None
            if stretch is not None:
                leaves[position] = stretch.cut(leaf, steps, time)
        return pytree.tree_unflatten(leaves, structure)


class _LayerWindows(TorchFunctionMode):
    """Gives recurrent layers the steps of this call alone, and puts what they gave before in front.

    Running sums and their relatives become loops, whose state is the value so far.

    `following` are the next windows, by name.
    """

    def __init__(
        self,
        layers: Sequence[LayerSteps | None],
        windows: Mapping[str, Tensor],
        size: int,
        steps: Tensor,
        time: Any,
    ) -> None:
        super().__init__()
        self._layers = iter(layers)
        self._windows = windows
        self._size = size
        self._steps = steps
        self._time = time
        self.following: dict[str, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of `TorchFunctionMode`."""
        kwargs = kwargs or {}
        layer = next(self._layers) if func in OVER_TIME else None
        if layer is None:
            return func(*args, **kwargs)
        if func is scan:
            return self._run_loop(layer, *args)
        if func in LAYERS:
            y, *lasts = func(self._cut(layer, args[0]), *args[1:], **kwargs)
            return (*self._join(layer, y), *lasts)
        return self._run_running_value(layer, func, *args, **with_dim(kwargs))

    def _run_loop(
        self,
        layer: LayerSteps,
        body: Body,
        states: Sequence[Tensor],
        sequences: Sequence[Tensor],
        invariants: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        new = list(map(self._cut_one, layer.takes, sequences))
        results = scan(body, states, new, invariants)
        count = len(states)
        return (*results[:count], *self._join(layer, *results[count:]))

    def _run_running_value(
        self,
        layer: LayerSteps,
        func: Callable[..., Any],
        input: Tensor,  # noqa: A002  # PyTorch's name
        dim: int,
        **rest: Any,
    ) -> Any:
        result = run_as_loop(func, _scan_values, self._cut(layer, input), dim, **rest)
        (joined,) = self._join(layer, values_of(result))
        return with_values(result, joined)

    def _cut(self, layer: LayerSteps, whole: Tensor) -> Tensor:
        return self._cut_one(layer.takes[0], whole)

    def _cut_one(self, stretch: Stretch, whole: Tensor) -> Tensor:
        return stretch.cut(whole, self._steps, self._time)

    def _join(self, layer: LayerSteps, *given: Tensor) -> list[Tensor]:
        """What the layer gave before and gives now, and the next windows of it."""
        joined = []
        for window, new in zip(layer.gives, given, strict=True):
            before = self._windows.get(window.name)
            if before is None:
                before = self._zeros(window, new)
            else:
                self.following[window.name] = window.stretch.end(before, new)
            joined.append(window.stretch.join(before, new, self._steps))
        return joined

    def _zeros(self, window: Window, like: Tensor) -> Tensor:
        sizes = list(like.shape)
        sizes[window.stretch.time] = window.stretch.steps(self._size)
        return like.new_zeros(sizes)


def _scan_values(body: Body, first: Tensor, slices: Tensor) -> Tensor:
    _, values = scan(body, (first,), [slices], [])
    return values
