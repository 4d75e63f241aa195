# SPDX-License-Identifier: Apache-2.0
"""How far a network looks back, found by trying windows of different sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stateport.contract import resolve
from stateport.picking import map_values

from .example import Arguments, Example
from .explicit import Calls, States, put_back
from .isolation import computing_in, float64_copy, quiet, unchanged_globals
from .trees import are_close, tensors_in
from .window_layout import find_layout
from .windows import Layout, Windowed

#: The largest window that is tried: each call computes so many steps once more.
_LARGEST: Final = 256
#: The number of steps of which every chunk may have to be a multiple, as for blocks of attention,
#: divides this one.
_COMMON_MULTIPLE: Final = 160
#: The most steps in which the network's shape of results is looked at.
_LONGEST_TRIED: Final = 8192
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


def with_windows(
    network: nn.Module, method: str, example: Example, shortening: int = 1
) -> WindowedNetwork | None:
    """The network with the smallest windows that let it be fed in chunks.

    None where it looks back further than any window, or ahead.

    Args:
        network: the author's network. It does not change.
        method: the method that is exported.
        example: what the method takes.
        shortening: by which factor the network may make sequences shorter.
    """
    if not {"batch", "time"} <= example.axes or example.lengths or example.remembered:
        return None
    with unchanged_globals(seed=0), quiet(), torch.no_grad():
        try:
            return _Search(network, method, example, shortening).run()
        except (Exception, SystemExit):  # forward may raise anything at other sizes
            return None


class _Search:
    """Tries windows on a copy of the network in float64."""

    def __init__(self, network: nn.Module, method: str, example: Example, shortening: int) -> None:
        self.network, self.method, self.example = network, method, example
        self.double = float64_copy(network)
        self.common = lcm(_COMMON_MULTIPLE, example.time_multiple)
        with_strides = lcm(self.common, shortening)
        self.shortening = 1
        if with_strides <= _LONGEST_TRIED:
            self.shortening, self.common = shortening, with_strides

    def run(self) -> WindowedNetwork | None:
        layout = find_layout(self.network, self.method, self.example, self.common)
        multiple = self._multiple(layout)
        if multiple is None:
            return None

        smallest = self._smallest(layout, multiple)
        if smallest == 0 or not self._looks_no_further(layout, multiple, smallest):
            return None
        if not self._gives_sequences_of_any_length(layout, multiple, smallest):
            return None
        layout = self._with_few_windows(layout, multiple, smallest)
        layout = self._with_few_sums(layout, multiple, smallest)
        return self._windowed(layout, multiple, multiple * smallest)

    def _multiple(self, layout: Layout) -> int | None:
        """The smallest number of which chunks have to be a multiple; None where none will do."""
        least: int = lcm(self.example.time_multiple, *layout.divisions)
        if self._fits_largest(layout, least):
            return least
        for multiple in range(least, min(self.shortening, _LARGEST) + 1, least):
            if self.shortening % multiple == 0 and self._fits_largest(layout, multiple):
                return multiple

        if not self._fits_largest(layout, self.common):
            return None
        for multiple in range(2 * least, self.common + 1, least):
            if self.common % multiple == 0 and self._fits_largest(layout, multiple):
                return multiple
        return None

    def _fits_largest(self, layout: Layout, multiple: int) -> bool:
        """Whether chunks of multiples of this number give the whole, with the largest windows."""
        return self._fits(layout, multiple, -(-_LARGEST // multiple))

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
            if not _agree(tensors_in(result[:-1]), tensors_in(whole), layout, begin, chunk):
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
            answers.append(tensors_in(result[:-1]))
        return all(map(torch.equal, *answers))

    def _gives_sequences_of_any_length(self, layout: Layout, multiple: int, multiples: int) -> bool:
        """Whether a sequence in one call gives what the author's network gives for it.

        Forward may do something else for short sequences, or fail. With windows, none is short.
        """
        size = multiple * multiples
        windowed = Windowed(self.double, self.method, layout, size).eval()
        times = [multiple * length for length in _LENGTHS]
        return all(self._gives_a_sequence(windowed, layout, size, time) for time in times)

    def _takes_multiples_alone(self, layout: Layout, multiple: int, size: int) -> bool:
        """Whether a sequence between two multiples gives something else with windows, or fails.

        Forward may fill it up to the next multiple, for example.
        """
        windowed = Windowed(self.double, self.method, layout, size).eval()
        for length in _LENGTHS:
            for time in {multiple * length + 1, multiple * (length + 1) - 1}:
                try:
                    if not self._gives_a_sequence(windowed, layout, size, time):
                        return True
                except Exception:  # forward may raise anything
                    return True
        return False

    def _gives_a_sequence(self, windowed: Windowed, layout: Layout, size: int, time: int) -> bool:
        """Whether a whole sequence gives with empty windows what the author's network gives."""
        arguments = self._arguments(time)
        whole = self._run(self.double, self.method, arguments, {})[0]
        part = self._part(arguments, 0, time, self._empty_windows(layout, size))
        result = self._run(windowed, "forward", part, {})[0]
        parts, wholes = tensors_in(result[:-1]), tensors_in(whole)
        if [part.shape for part in parts] != [whole.shape for whole in wholes]:
            return False
        # Those that do not stretch over time too.
        return _agree(parts, wholes, layout, 0, time) and all(map(_is_close, parts, wholes, wholes))

    def _with_few_windows(self, layout: Layout, multiple: int, multiples: int) -> Layout:
        """The layout without windows of layers that nothing looks back at."""
        for layer in layout.layers:
            for window in layer.gives if layer else ():
                smaller = layout.without(window)
                if self._fits(smaller, multiple, multiples):
                    layout = smaller
        return layout

    def _with_few_sums(self, layout: Layout, multiple: int, multiples: int) -> Layout:
        """The layout without sums that may begin again in every call, as nothing but sizes counts.

        A network may number the steps by a sum, and look at differences of these numbers alone.
        """
        for number, layer in enumerate(layout.layers):
            if layer is not None and layer.is_fixed:
                smaller = layout.beginning_again(number)
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
        return map_values(_as_float64, empty)

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
        example = self.example.with_remembered(leaves, firsts, [*map(str, leaves)])
        if multiple > 1 and self._takes_multiples_alone(layout, multiple, size):
            example = example.with_multiple(multiple)

        arguments = self.example.make(self.example.sizes)
        with put_back(self.network):
            result = getattr(self.network, self.method)(*arguments.args, **arguments.kwargs)
        count = len(result) if type(result) is tuple else 1
        declared = {str(leaf): f"{count}.{leaf}" for leaf in leaves}
        return WindowedNetwork(windowed, example, declared, multiple)


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
    finite = whole[whole.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return are_close(part, expected, atol=_TOLERANCE * max(scale, 1e-30))
