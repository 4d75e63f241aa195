# SPDX-License-Identifier: Apache-2.0
"""Windows that a loop moves along a sequence: `x[:, t:t + 4]`.

Each step of such a loop takes several steps of the sequence, most of which the step before took,
too. What tells windows from other parts of a sequence: a longer sequence has more of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx
from torch.export import ExportedProgram

from .reader import behind_whole_slices, full_args, shape_of

#: The axis and the length of a window.
Window = tuple[int, int]


def windows_in(programs: Sequence[ExportedProgram]) -> frozenset[Window]:
    """The windows of a network, which was traced at two lengths, the shorter one first."""
    fewer, more = map(_count_starts, programs)
    return frozenset(window for window, count in fewer.items() if 1 < count < more.get(window, 0))


def _count_starts(program: ExportedProgram) -> dict[Window, int]:
    """By axis and length, the largest number of steps at which such parts of one tensor begin."""
    starts: dict[tuple[fx.Node, Window], set[int]] = {}
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.slice.Tensor:
            source, window, first = _window_of(node)
            if window is not None:
                starts.setdefault((source, window), set()).add(first)

    counts: dict[Window, int] = {}
    for (_, window), found in starts.items():
        counts[window] = max(counts.get(window, 0), len(found))
    return counts


def _window_of(node: fx.Node) -> tuple[fx.Node, Window | None, int]:
    """What a slice is taken from, its axis and length (None if they vary), and its first step."""
    source, dim, start, end, step = full_args(node)
    source = behind_whole_slices(source)
    shape = shape_of(source)
    dim %= len(shape)
    size = shape[dim]
    is_known = isinstance(start, int | None) and isinstance(end, int | None)
    if step != 1 or not is_known or not isinstance(size, int):
        return source, None, 0

    first, stop, _ = slice(start, end).indices(size)
    if not 1 < stop - first < size:
        return source, None, 0
    return source, (dim, stop - first), first
