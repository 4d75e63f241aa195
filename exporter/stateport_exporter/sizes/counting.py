"""Loops whose counters are foreseen, while an author's code runs."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from typing import Any

from torch import nn

from ..authors import authored, names_in
from .foreseen import GRID, Watch, foresee


@contextlib.contextmanager
def counted(network: nn.Module, watch: Watch) -> Iterator[None]:
    """`range` and `enumerate` give foreseen numbers wherever the network's author calls them.

    They are put among the globals of his functions, in front of Python's own.
    """
    counting = {"range": _range(watch), "enumerate": _enumerate(watch)}
    changed: list[tuple[dict[str, Any], str]] = []
    try:
        for function in authored(network).functions:
            for name in counting.keys() & names_in(function.__code__):
                if name not in function.__globals__:
                    function.__globals__[name] = counting[name]
                    changed.append((function.__globals__, name))
        yield
    finally:
        for names, name in changed:
            del names[name]


def _range(watch: Watch) -> type:
    class Range:
        """As Python's, with foreseen numbers."""

        def __init__(self, *bounds: Any) -> None:
            self.numbers = range(*map(operator.index, bounds))

        def __iter__(self) -> Iterator[Any]:
            return (foresee(number, GRID, watch) for number in self.numbers)

        def __reversed__(self) -> Iterator[Any]:
            return (foresee(number, GRID, watch) for number in reversed(self.numbers))

        def __len__(self) -> int:
            return len(self.numbers)

        def __contains__(self, number: object) -> bool:
            return number in self.numbers

        def __getitem__(self, index: Any) -> Any:
            return self.numbers[index]

    return Range


def _enumerate(watch: Watch) -> Any:
    def count(iterable: Any, start: Any = 0) -> Iterator[Any]:
        for number, value in enumerate(iterable, operator.index(start)):
            yield foresee(number, GRID, watch), value

    return count
