# SPDX-License-Identifier: Apache-2.0
"""How far a network looks back, found by trying windows of different sizes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd, lcm
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from stateport.contract import resolve

from .example import Arguments, Example
from .explicit import LAYERS, Calls, States, put_back
from .isolation import computing_in, float64_copy, quiet, unchanged_globals
from .packing import is_packed
from .running_values import with_dim
from .scan import scan
from .windows import OVER_TIME, LayerSteps, Layout, Stretch, Window, Windowed

#: The largest window that is tried: each call computes so many steps once more.
_LARGEST: Final = 256
#: The number of steps of which every chunk may have to be a multiple, as for blocks of attention,
#: divides this one.
_COMMON_MULTIPLE: Final = 160
#: The largest relative difference between chunks and the whole, for rounding in float64.
_TOLERANCE: Final = 1e-9

#: The lengths at which single calls are compared with the author's network.
_LENGTHS: Final = (*range(1, 10), 12, 16, 24, 33, 65, 100)

#: What rows of random numbers, (time, ...), become.
_KINDS_OF_ROWS: Final[tuple[Callable[[Tensor], Tensor], ...]] = (
    lambda row: row,
    lambda row: row[:1].expand_as(row),
    lambda row: -row[:1].expand_as(row).abs(),
    lambda row: 4 * row,
    lambda row: row / 10,
    lambda row: row.abs(),
)

#: The position of an argument of PyTorch's recurrent layers.
_BIDIRECTIONAL: Final = 7


@dataclass(frozen=True)
class WindowedNetwork:
    """A network with windows, and its example.

    Attributes:
        network: the network.
        example: the author's example with the windows behind its arguments.
        declared: for each window's argument, the result that gives the next one.
        multiple: a number of which the steps of every chunk have to be a multiple.
    """

    network: Windowed
    example: Example
    declared: Mapping[str, str]
    multiple: int


def with_windows(network: nn.Module, method: str, example: Example) -> WindowedNetwork | None:
    """The network with the smallest windows that let it be fed in chunks.

    None where it looks back further than any window, or ahead.

    Args:
        network: the author's network. It does not change.
        method: the method that is exported.
        example: what the method takes.
    """
    if not {"batch", "time"} <= example.axes or example.lengths or example.remembered:
        return None
    with unchanged_globals(seed=0), quiet(), torch.no_grad():
        try:
            return _Search(network, method, example).run()
        except (Exception, SystemExit):  # forward may raise anything at other sizes
            return None


class _Search:
    """Tries windows on a copy of the network in float64."""

    def __init__(self, network: nn.Module, method: str, example: Example) -> None:
        self.network, self.method, self.example = network, method, example
        self.double = float64_copy(network)
        self.common = lcm(_COMMON_MULTIPLE, example.time_multiple)

    def run(self) -> WindowedNetwork | None:
        layout = self._layout()
        if layout is None:
            return None

        multiple = self._multiple(layout)
        if multiple is None:
            return None

        smallest = self._smallest(layout, multiple)
        if smallest == 0 or not self._looks_no_further(layout, multiple, smallest):
            return None
        if not self._gives_sequences_of_any_length(layout, multiple, smallest):
            return None
        layout = self._with_few_windows(layout, multiple, smallest)
        return self._windowed(layout, multiple, multiple * smallest)

    def _multiple(self, layout: Layout) -> int | None:
        """The smallest number of which chunks have to be a multiple; None where none will do."""
        least = lcm(self.example.time_multiple, *layout.divisions)
        if self._fits(layout, least, -(-_LARGEST // least)):
            return least
        if not self._fits(layout, self.common, -(-_LARGEST // self.common)):
            return None

        for multiple in range(2 * least, self.common + 1, least):
            if self.common % multiple == 0 and self._fits(
                layout, multiple, -(-_LARGEST // multiple)
            ):
                return multiple
        return None

    def _layout(self) -> Layout | None:
        """Where the network has steps; None where windows cannot be put in front of them."""
        inputs = self._windows_of_inputs()
        batch, time = self.example.sizes["batch"], self.common
        runs = [
            self._sizes_of_run(batch, time),
            self._sizes_of_run(batch + 1, time),
            self._sizes_of_run(batch, 2 * time),
        ]
        if inputs is None or not _are_alike(runs):
            return None

        names = map(self._free_name, _names("window_layer"))
        layers: list[LayerSteps | None] = []
        for calls in zip(*(run.layers for run in runs), strict=True):
            layer = _layer_steps(calls, names, batch, time)
            if layer is _UNCLEAR:
                return None
            layers.append(layer)

        shapes_of_outputs = zip(*(run.outputs for run in runs), strict=True)
        outputs = [_stretch(shapes, batch, time) for shapes in shapes_of_outputs]
        return Layout(inputs, tuple(layers), tuple(outputs))

    def _windows_of_inputs(self) -> dict[int, Window] | None:
        """The windows of inputs over time; None where one has an axis twice, or no batch."""
        inputs = {}
        for number, leaf in enumerate(self.example.leaves):
            if "time" not in leaf.shape:
                continue
            if leaf.shape.count("time") != 1 or leaf.shape.count("batch") != 1:
                return None

            stretch = Stretch(leaf.shape.index("batch"), leaf.shape.index("time"))
            name = self._free_name(f"window_{'_'.join(leaf.path)}")
            inputs[number] = Window(name, stretch, leaf.shape, leaf.dtype)
        return inputs

    def _free_name(self, name: str) -> str:
        """A name that no argument of the author's has."""
        taken = {leaf.path[0] for leaf in self.example.leaves}
        while name in taken:
            name += "_state"
        return name

    def _sizes_of_run(self, batch: int, time: int) -> _Sizes:
        """The sizes that a run has."""
        arguments = self.example.make({"batch": batch, "time": time})
        sizes = _Sizes()
        with put_back(self.network), sizes:
            result = getattr(self.network, self.method)(*arguments.args, **arguments.kwargs)
        sizes.outputs = [tuple(tensor.shape) for tensor in _tensors(result)]
        return sizes

    def _fits(self, layout: Layout, multiple: int, multiples: int) -> bool:
        """Whether a sequence in chunks gives what it gives as a whole, with windows of this size.

        Chunks are fed while the windows are empty, while they fill, and when they are full.
        """
        try:
            return self._gives_the_whole(layout, multiple, multiples)
        except Exception:  # forward may raise anything, as for chunks that are too short
            return False

    def _gives_the_whole(self, layout: Layout, multiple: int, multiples: int) -> bool:
        size = multiple * multiples
        chunks = [multiple * count for count in (1, 2, 1, max(multiples, 1), 1, 1, 3)]
        arguments = self._arguments(sum(chunks))
        whole = self._run(self.double, self.method, arguments, {})[0]

        windowed = Windowed(self.double, self.method, layout, size).eval()
        carried = self._empty_windows(layout, size)
        firsts: dict[int, States] = {}
        begin = 0
        for chunk in chunks:
            part = self._part(arguments, begin, chunk, carried)
            result, lasts = self._run(windowed, "forward", part, firsts)
            carried, firsts = result[-1], dict(enumerate(lasts))
            if not _agree(_tensors(result[:-1]), _tensors(whole), layout, begin, chunk):
                return False
            begin += chunk
        return True

    def _looks_no_further(self, layout: Layout, multiple: int, multiples: int) -> bool:
        """Whether steps before a window of this size make no difference at all.

        What only fades, as a moving average, would pass for windows with the data that is tried,
        and be wrong with other data. So the steps before are made a thousand times as large, and
        the results have to remain the same to the last bit.
        """
        larger = multiple * (multiples + 1)
        windowed = Windowed(self.double, self.method, layout, larger).eval()
        arguments = self._arguments(larger + 4 * multiple)
        part = self._part(arguments, 0, larger, self._empty_windows(layout, larger))
        result, lasts = self._run(windowed, "forward", part, {})
        usual: dict[str, Tensor] = result[-1]

        other = dict(usual)
        for window in layout.windows:
            changed = usual[window.name].clone()
            oldest = changed.narrow(window.stretch.time, 0, window.stretch.steps(multiple))
            oldest.copy_(oldest * 1000 if oldest.is_floating_point() else oldest.flip(0))
            other[window.name] = changed

        answers = []
        for windows in (usual, other):
            part = self._part(arguments, larger, 4 * multiple, windows)
            result, _ = self._run(windowed, "forward", part, dict(enumerate(lasts)))
            answers.append(_tensors(result[:-1]))
        return all(map(torch.equal, *answers))

    def _gives_sequences_of_any_length(self, layout: Layout, multiple: int, multiples: int) -> bool:
        """Whether a sequence in one call gives what the author's network gives for it.

        Forward may do something else for short sequences, or fail. With windows, none is short.
        """
        size = multiple * multiples
        windowed = Windowed(self.double, self.method, layout, size).eval()
        for length in _LENGTHS:
            time = multiple * length
            arguments = self._arguments(time)
            whole = self._run(self.double, self.method, arguments, {})[0]
            part = self._part(arguments, 0, time, self._empty_windows(layout, size))
            result = self._run(windowed, "forward", part, {})[0]
            parts, wholes = _tensors(result[:-1]), _tensors(whole)
            if not _agree(parts, wholes, layout, 0, time):
                return False
            # Those that do not stretch over time too.
            if not all(map(_is_close, parts, wholes, wholes)):
                return False
        return True

    def _with_few_windows(self, layout: Layout, multiple: int, multiples: int) -> Layout:
        """The layout without windows of layers that nothing looks back at."""
        for layer in layout.layers:
            for window in layer.gives if layer else ():
                smaller = layout.without(window)
                if self._fits(smaller, multiple, multiples):
                    layout = smaller
        return layout

    def _arguments(self, time: int) -> Arguments:
        """Arguments in float64, with rows of different kinds of numbers.

        Rows that do not change keep gates open or closed that open and close with random numbers.
        """
        arguments = self.example.make({"time": time, "batch": len(_KINDS_OF_ROWS)}, seed=1)
        shapes = iter([leaf.shape for leaf in self.example.leaves])

        def varied(tensor: Tensor) -> Tensor:
            shape = next(shapes)
            if "time" not in shape or not tensor.is_floating_point():
                return _as_float64(tensor)
            rows = tensor.double().movedim((shape.index("batch"), shape.index("time")), (0, 1))
            rows = torch.stack([kind(row) for kind, row in zip(_KINDS_OF_ROWS, rows, strict=True)])
            return rows.movedim((0, 1), (shape.index("batch"), shape.index("time")))

        made: Arguments = pytree.tree_map_only(Tensor, varied, arguments)
        return made

    def _run(
        self, module: nn.Module, method: str, arguments: Arguments, firsts: Mapping[int, States]
    ) -> tuple[Any, list[States]]:
        """The result of a network in float64, and the last states of its recurrent layers."""
        calls = Calls(firsts, with_firsts=False)
        with put_back(module), computing_in(torch.float64):
            result = calls.run(getattr(module, method), arguments.args, arguments.kwargs)
        return result, calls.lasts

    def _empty_windows(self, layout: Layout, size: int) -> dict[str, Tensor]:
        """Windows of zeros, and no valid steps."""
        empty = {}
        for leaf in layout.leaves(size):
            sizes = resolve(leaf.shape, {"batch": len(_KINDS_OF_ROWS)})
            empty[str(leaf)] = torch.zeros(sizes, dtype=getattr(torch, leaf.dtype))
        return {name: _as_float64(tensor) for name, tensor in empty.items()}

    def _part(
        self, arguments: Arguments, begin: int, count: int, windows: Mapping[str, Tensor]
    ) -> Arguments:
        """The arguments with these steps of the inputs alone, and with windows."""
        axes = iter([leaf.shape for leaf in self.example.leaves])

        def cut(tensor: Tensor) -> Tensor:
            shape = next(axes)
            return tensor.narrow(shape.index("time"), begin, count) if "time" in shape else tensor

        part: Arguments = pytree.tree_map_only(Tensor, cut, arguments)
        part.kwargs.update(windows)
        return part

    def _smallest(self, layout: Layout, multiple: int) -> int:
        """The smallest number of multiples that a window needs."""
        too_small, enough = -1, -(-_LARGEST // multiple)
        while enough - too_small > 1:
            middle = (too_small + enough) // 2
            if self._fits(layout, multiple, middle):
                enough = middle
            else:
                too_small = middle
        return enough

    def _windowed(self, layout: Layout, multiple: int, size: int) -> WindowedNetwork:
        """The network with windows; in messages it is called what its author called it."""
        kind = type(type(self.network).__qualname__, (Windowed,), {})
        windowed: Windowed = kind(self.network, self.method, layout, size).eval()

        leaves = layout.leaves(size)
        firsts = []
        for leaf in leaves:
            sizes = [1 if isinstance(axis, str) else axis for axis in leaf.shape]
            firsts.append(torch.zeros(sizes, dtype=getattr(torch, leaf.dtype)))
        example = self.example.with_remembered(leaves, firsts, [str(leaf) for leaf in leaves])

        arguments = self.example.make(self.example.sizes)
        with put_back(self.network):
            result = getattr(self.network, self.method)(*arguments.args, **arguments.kwargs)
        count = len(result) if type(result) is tuple else 1
        declared = {str(leaf): f"{count}.{leaf}" for leaf in leaves}
        return WindowedNetwork(windowed, example, declared, multiple)


class _Call(NamedTuple):
    """The shapes of what a layer or loop takes steps from, and of what it gives.

    `axis` is the one along which a running value runs; None for others, which run over time.
    """

    takes: tuple[tuple[int, ...], ...]
    gives: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    axis: int | None = None


class _Sizes(TorchFunctionMode):
    """The shapes in one run: of what recurrent layers and loops take and give, and of results."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[_Call] = []
        self.outputs: list[tuple[int, ...]] = []
        #: Whether there is a layer that goes both ways, or gets data that is packed.
        self.has_other_layers = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of `TorchFunctionMode`."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is scan:
            states, sequences = args[1:3]
            self._record(sequences, result[len(states) :])
        elif func in LAYERS:
            self._record(args[:1], result[:1])
            self.has_other_layers |= is_packed(args) or bool(args[_BIDIRECTIONAL])
        elif func in OVER_TIME:
            values = result if isinstance(result, Tensor) else result[0]
            axis = with_dim(kwargs).get("dim", args[1] if len(args) > 1 else 0)
            self._record(args[:1], [values], axis % max(values.ndim, 1))
        return result

    def _record(
        self, takes: Sequence[Tensor], gives: Sequence[Tensor], axis: int | None = None
    ) -> None:
        dtypes = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in gives)
        self.layers.append(_Call(_shapes(takes), _shapes(gives), dtypes, axis))


def _shapes(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _are_alike(runs: Sequence[_Sizes]) -> bool:
    """Whether runs have the same layers and results, and layers that go forward alone."""
    first = runs[0]
    for run in runs:
        if run.has_other_layers or len(run.layers) != len(first.layers):
            return False
        if list(map(len, run.outputs)) != list(map(len, first.outputs)):
            return False
    return True


#: A layer of which it is not clear where it has steps.
_UNCLEAR: Final = LayerSteps((), ())


def _layer_steps(
    calls: Sequence[_Call], names: Iterator[str], batch: int, time: int
) -> LayerSteps | None:
    """Where a layer has steps, by its shapes in three runs; None if it does not run over time."""
    takes = [
        _stretch(shapes, batch, time)
        for shapes in zip(*(call.takes for call in calls), strict=True)
    ]
    gives = [
        _stretch(shapes, batch, time)
        for shapes in zip(*(call.gives for call in calls), strict=True)
    ]
    axis = calls[0].axis
    if axis is not None and takes[0] is not None and takes[0].time != axis:
        return None
    if not any([*takes, *gives]):
        return None

    windows = []
    for stretch, shape, dtype in zip(gives, calls[0].gives, calls[0].dtypes, strict=True):
        if stretch is None:
            return _UNCLEAR
        windows.append(Window(next(names), stretch, shape, dtype))
    known = [stretch for stretch in takes if stretch is not None]
    return LayerSteps(tuple(known), tuple(windows)) if len(known) == len(takes) else _UNCLEAR


def _names(base: str) -> Iterator[str]:
    """base, base_1, base_2 and so on."""
    yield base
    for number in itertools.count(1):
        yield f"{base}_{number}"


def _stretch(shapes: Sequence[tuple[int, ...]], batch: int, time: int) -> Stretch | None:
    """How a tensor stretches over time; None if it does not, or not in proportion.

    `shapes` are those of the tensor in three runs: the usual one, one with a batch that is larger
    by one, and one with twice the steps.
    """
    usual, wider, longer = shapes
    batch_axes = [axis for axis, size in enumerate(usual) if wider[axis] != size]
    time_axes = [axis for axis, size in enumerate(usual) if longer[axis] != size]
    if len(batch_axes) != 1 or len(time_axes) != 1 or usual[batch_axes[0]] != batch:
        return None

    steps = usual[time_axes[0]]
    if longer[time_axes[0]] != 2 * steps:
        return None
    common = gcd(steps, time)
    return Stretch(batch_axes[0], time_axes[0], steps // common, time // common)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _as_float64(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _agree(
    parts: Sequence[Tensor], wholes: Sequence[Tensor], layout: Layout, begin: int, count: int
) -> bool:
    """Whether the results of a chunk are those of the whole at these steps."""
    for part, whole, stretch in zip(parts, wholes, layout.outputs, strict=True):
        if stretch is None:
            continue
        expected = whole.narrow(stretch.time, stretch.steps(begin), stretch.steps(count))
        if not _is_close(part, expected, whole):
            return False
    return True


def _is_close(part: Tensor, expected: Tensor, whole: Tensor) -> bool:
    """Whether two tensors differ by rounding in float64 alone, beside the largest of the whole."""
    if part.shape != expected.shape:
        return False
    scale = float(whole.abs().max()) if whole.numel() else 0.0
    return torch.allclose(part, expected, rtol=0.0, atol=_TOLERANCE * max(scale, 1e-30))
