# SPDX-License-Identifier: Apache-2.0
"""Finds the lengths at which a sequence exceeds a table that is indexed by position."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from stateport.picking import present

from ..memory.kept import unchanged_shared
from ..network.blame import Line, author_line
from ..network.example import Example
from ..network.explicit import Calls
from ..network.isolation import evaluation_twin, unchanged_globals
from .comparisons import Comparison


class _Indexing(TorchFunctionMode):
    """Records lookups in tables: the number of rows, the largest index and the author's line."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups: list[tuple[int, int, Line | None]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of `TorchFunctionMode`."""
        for size, index in _lookups(func, args):
            is_integer = not index.is_floating_point() and index.dtype != torch.bool
            if is_integer and index.numel():
                self.lookups.append((size, int(index.max()), author_line()))

        return func(*args, **(kwargs or {}))


def _lookups(func: Callable[..., Any], args: tuple[Any, ...]) -> Iterator[tuple[int, Tensor]]:
    """The number of rows and the indices of each lookup in a table that a call makes."""
    if func is functional.embedding and len(args) >= 2:
        yield args[1].shape[0], args[0]
    elif func is torch.embedding and len(args) >= 2:
        yield args[0].shape[0], args[1]
    elif func in (torch.index_select, Tensor.index_select) and len(args) == 3:
        yield args[0].shape[args[1]], args[2]
    elif func is Tensor.__getitem__:
        yield from _lookups_of_item(args[0], args[1])


def _lookups_of_item(table: Tensor, key: Any) -> Iterator[tuple[int, Tensor]]:
    """The lookups of `table[key]`, where the positions of axes are known."""
    keys = key if isinstance(key, tuple) else (key,)
    keys = tuple(present(keys))  # None adds an axis
    if any(key is Ellipsis for key in keys):  # `in` would compare arrays
        return

    for size, index in zip(table.shape, keys, strict=False):
        if isinstance(index, Tensor):
            yield size, index


def ends_of_tables(network: nn.Module, method: str, example: Example) -> list[Comparison]:
    """Where a sequence is longer than a table that has a row for each of its positions.

    The network runs at two lengths, with zeros for all integers of its arguments. Indices that are
    larger in the longer run are positions.
    """
    time = example.sizes["time"]
    short = _run_lookups(network, method, example, time)
    long = _run_lookups(network, method, example, 2 * time)

    ends = []
    for (rows, first, line), (same_rows, second, _) in zip(short, long, strict=False):
        if rows == same_rows and second > first:
            longest = time + (rows - 1 - first) * time // (second - first)
            symbol = sympy.Symbol("time")
            fits = sympy.Le(symbol, longest)
            ends.append(Comparison(fits, {symbol: "time"}, line, direct=True))
    return ends


def _run_lookups(
    network: nn.Module, method: str, example: Example, time: int
) -> list[tuple[int, int, Line | None]]:
    """The lookups of a run: number of rows, largest index and the author's line of each."""
    arguments = example.make({**example.sizes, "time": time})
    args, kwargs = pytree.tree_map(_zeros, (arguments.args, arguments.kwargs))
    indexing = _Indexing()
    with unchanged_globals(0), unchanged_shared(network), torch.no_grad():
        twin = evaluation_twin(network)
        with contextlib.suppress(Exception), indexing:  # the network may not take zeros
            Calls({}).run(getattr(twin, method), args, kwargs)

    return indexing.lookups


def _zeros(value: Any) -> Any:
    is_integers = isinstance(value, Tensor) and not value.is_floating_point()
    if is_integers:
        return torch.zeros_like(value)
    return value
