"""The sizes to try: where comparisons turn, as far as a network can be run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Final

from torch import nn

from ..blame import Line
from ..errors import ExportError
from .comparisons import Comparison, Turn, turns
from .limits import limit_of, reach

Sizes = Mapping[str, int]
_Key = tuple[tuple[str, int], ...]

#: A network that compares so much is refused.
_MOST_SIZES: Final = 64
#: So many rows and steps together no call has.
_HUGE: Final = 10**8


@dataclass
class Search:
    """Which sizes wait to be tried, and at which of those that were a network ran.

    `usual` are the sizes that it is traced at, `tried` those that are tried anyway, `axes` the
    dynamic ones; `loops` says that it runs over time step by step. `lines` are the author's that
    decide at the sizes that were added.
    """

    network: nn.Module
    axes: Collection[str]
    usual: Sizes
    tried: Mapping[str, tuple[int, ...]]
    loops: bool = False
    waiting: list[Sizes] = field(default_factory=list)
    lines: dict[_Key, Line | None] = field(default_factory=dict)
    ran: dict[_Key, bool] = field(default_factory=dict)
    beyond: dict[str, int] = field(default_factory=dict)

    def add(self, compares: Iterable[Comparison]) -> None:
        """Lets the sizes wait at which these comparisons turn.

        Raises:
            ExportError: there are too many, or one of several axes is out of reach.
        """
        for comparison in compares:
            for turn in turns(comparison, self.tried):
                if turn.size > reach(self.network, turn.axis, loops=self.loops):
                    self._leave(turn, comparison)
                else:
                    self._wait({**turn.sizes, turn.axis: turn.size - 1}, turn.line)
                    self._wait(turn.sizes, turn.line)

    def note(self, sizes: Sizes, *, ran: bool) -> None:
        """Notes whether the network ran at these sizes."""
        self.ran[_key(sizes)] = ran

    def is_noted(self, sizes: Sizes) -> bool:
        """Whether the network was run at these sizes."""
        return _key(sizes) in self.ran

    def ran_at(self, sizes: Sizes) -> bool:
        """Whether it ran there."""
        return self.ran.get(_key(sizes), False)

    def worked(self) -> list[Sizes]:
        """The sizes at which it ran."""
        return [dict(key) for key, ran in self.ran.items() if ran]

    def line(self, sizes: Sizes) -> Line | None:
        """The author's line that may decide otherwise at these sizes."""
        return self.lines.get(_key(sizes))

    def limits(self, runs: Callable[[Sizes], bool]) -> dict[str, int]:
        """The largest size of each axis that the network takes, where it fails beyond.

        `runs` tells whether it does at other sizes.

        Raises:
            ExportError: it fails at sizes between others that it takes.
        """
        limits = dict(self.beyond)
        ran: dict[str, dict[int, bool]] = defaultdict(dict)
        for key, worked in self.ran.items():
            for axis, size in {**self.usual, **dict(key)}.items():
                ran[axis][size] = worked or ran[axis].get(size, False)
        for axis in self.axes & ran.keys():
            failing = [dict(key) for key, worked in self.ran.items() if not worked]
            line = next((self.line(sizes) for sizes in failing if axis in sizes), None)

            def runs_at(size: int, axis: str = axis) -> bool:
                return runs({axis: size})

            limit = limit_of(axis, ran[axis], runs_at, line)
            if limit is not None:
                limits[axis] = min(limit, limits.get(axis, limit))
        return limits

    def _wait(self, sizes: Sizes, line: Line | None) -> None:
        key = _key(sizes)
        if any(size < 1 for size in sizes.values()) or self.lines.get(key) is not None:
            return
        if key not in self.lines:
            self.waiting.append(sizes)
        self.lines[key] = line
        if len(self.lines) > _MOST_SIZES:
            raise ExportError(
                f"{type(self.network).__qualname__} compares sizes with too many others to try "
                f"them all{f' ({line})' if line else ''}. Let it do the same at every size."
            )

    def _leave(self, turn: Turn, comparison: Comparison) -> None:
        """What cannot be tried is left to the contract, whose limits the runtime keeps."""
        if prod(turn.sizes.values()) >= _HUGE and not comparison.direct:
            return  # PyTorch's own, about how it counts elements
        if turn.alone:
            self.beyond[turn.axis] = min(turn.size - 1, self.beyond.get(turn.axis, turn.size))
        else:
            sizes = ", ".join(f"{axis} {size}" for axis, size in turn.sizes.items())
            where = f" ({turn.line})" if turn.line else ""
            raise ExportError(
                f"{type(self.network).__qualname__} may do otherwise at {sizes}{where}, which is "
                "too large to be tried. Let it do the same at every size."
            )


def _key(sizes: Sizes) -> _Key:
    return tuple(sorted(sizes.items()))
