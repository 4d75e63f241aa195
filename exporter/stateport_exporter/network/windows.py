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

from .example import Leaf
from .explicit import LAYERS

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
        is_carried: whether it is an argument. What nothing looks back at is zeros instead.
    """

    name: str
    stretch: Stretch
    shape: tuple[int | str, ...]
    dtype: str
    is_carried: bool = True

    def leaf(self, steps: int) -> Leaf:
        """The argument, for windows of so many steps of the inputs."""
        shape = list(self.shape)
        shape[self.stretch.time] = self.stretch.steps(steps)
        shape[self.stretch.batch] = "batch"
        return Leaf((self.name,), self.dtype, tuple(shape))


@dataclass(frozen=True)
class Layout:
    """Where a network has steps.

    Attributes:
        inputs: the windows of its inputs, by their position among all tensors of the arguments.
        layers: the windows of what its recurrent layers give, in the order in which they run.
        outputs: for each tensor among its results, how it stretches over time; None if it does not.
    """

    inputs: Mapping[int, Window]
    layers: tuple[Window, ...]
    outputs: tuple[Stretch | None, ...]

    @property
    def windows(self) -> list[Window]:
        """The windows that are arguments."""
        windows = [*self.inputs.values(), *self.layers]
        return [window for window in windows if window.is_carried]

    @property
    def divisions(self) -> list[int]:
        """By how much time is divided where the network has steps."""
        stretches = [window.stretch for window in self.layers]
        stretches += [stretch for stretch in self.outputs if stretch is not None]
        return [stretch.down for stretch in stretches]

    def without_layer(self, number: int) -> Layout:
        """The same, where nothing looks back at what one of the layers gave."""
        layers = list(self.layers)
        layers[number] = replace(layers[number], is_carried=False)
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
        positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
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

    `following` are the next windows, by name.
    """

    def __init__(
        self,
        layers: Sequence[Window],
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
        if func not in LAYERS:
            return func(*args, **(kwargs or {}))

        window = next(self._layers)
        stretch = window.stretch
        new = stretch.cut(args[0], self._steps, self._time)
        y, *lasts = func(new, *args[1:], **(kwargs or {}))

        if window.is_carried:
            before = self._windows[window.name]
            self.following[window.name] = stretch.end(before, y)
        else:
            before = self._zeros(window, y)
        return (stretch.join(before, y, self._steps), *lasts)

    def _zeros(self, window: Window, y: Tensor) -> Tensor:
        sizes = list(y.shape)
        sizes[window.stretch.time] = window.stretch.steps(self._size)
        return y.new_zeros(sizes)
