"""Tables that are indexed by position: how long a sequence may be before one ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import sympy
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..memory.kept import unchanged_shared
from ..network.blame import Line, author_line
from ..network.example import Example
from ..network.explicit import Calls
from ..network.isolation import evaluation_twin, unchanged_globals
from .comparisons import Comparison

_EMBEDDINGS: Final = (functional.embedding, torch.embedding)


class _Indexing(TorchFunctionMode):
    """Notes of every look into a table how many rows it has, and the largest row that is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[tuple[int, int, Line | None]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of `TorchFunctionMode`."""
        for size, index in _looks(func, args):
            if index.numel() and not index.is_floating_point() and index.dtype != torch.bool:
                self.looks.append((size, int(index.max()), author_line()))
        return func(*args, **(kwargs or {}))


def _looks(func: Callable[..., Any], args: tuple[Any, ...]) -> Iterator[tuple[int, Tensor]]:
    """The number of rows and the indices of each look into a table that a call is."""
    if func in _EMBEDDINGS and len(args) >= 2:
        table, index = (args[1], args[0]) if func is functional.embedding else args[:2]
        yield table.shape[0], index
    elif func in (torch.index_select, Tensor.index_select) and len(args) == 3:
        yield args[0].shape[args[1]], args[2]
    elif func is Tensor.__getitem__:
        keys = args[1] if isinstance(args[1], tuple) else (args[1],)
        plain = [key for key in keys if key is not None]
        if Ellipsis not in [key for key in plain if not isinstance(key, Tensor)]:
            for size, key in zip(args[0].shape, plain, strict=False):
                if isinstance(key, Tensor):
                    yield size, key


def ends_of_tables(network: nn.Module, method: str, example: Example) -> list[Comparison]:
    """Where a sequence is longer than a table that has a row for each of its positions.

    Seen by two runs of different lengths, all of whose integers are the same.
    """
    short = example.sizes["time"]
    looks = []
    for time in (short, 2 * short):
        arguments = example.make({**example.sizes, "time": time})
        args, kwargs = pytree.tree_map(_zeros, (arguments.args, arguments.kwargs))
        indexing = _Indexing()
        with unchanged_globals(0), unchanged_shared(network), torch.no_grad():
            twin = evaluation_twin(network)
            with contextlib.suppress(Exception), indexing:  # it may not take zeros
                Calls({}).run(getattr(twin, method), args, kwargs)
        looks.append(indexing.looks)
    ends = []
    for (rows, first, line), (same, second, _) in zip(*looks, strict=False):
        if rows == same and second > first:
            longest = short + (rows - 1 - first) * short // (second - first)
            time = sympy.Symbol("time")
            ends.append(Comparison(sympy.Le(time, longest), {time: "time"}, line, direct=True))
    return ends


def _zeros(value: Any) -> Any:
    is_integers = isinstance(value, Tensor) and not value.is_floating_point()
    return torch.zeros_like(value) if is_integers else value
