"""Which node is to blame, given what every node gives and what it should."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto

from stateport.parity.vectors import differences

Array = NDArray[Any]

#: The truths of a node's output, by its place among them; none where that is not known, two where
#: what stood in this place then, and what has this name now, are not the same.
TruthsOf = Callable[[NodeProto, int], Sequence[Array]]
#: How far a value may be off, by its name and its truth.
Allowed = Callable[[str, Array], float]


@dataclass(frozen=True)
class Suspect:
    """A node, its output that is off, and how far it is off."""

    node: NodeProto
    output: str
    error: float
    allowed: float
    step: int | None


def first_suspect(
    graph: GraphProto,
    found: Mapping[str, Array],
    truths_of: TruthsOf,
    allowed: Allowed,
    *,
    known: Callable[[NodeProto], bool],
    steps: int,
) -> Suspect | None:
    """The first node, in the order of the graph, whose output is off.

    If it takes a value from a node that was not in the graph when the truth was recorded, that node
    is to blame: it stands between two that were neighbours.

    Args:
        graph: the graph as it is.
        found: what its nodes give, as far as it could be computed.
        truths_of: what they should give.
        allowed: how far each may be off.
        known: whether a node was there when the truth was recorded.
        steps: how many steps the call had.
    """
    makers = {name: node for node in graph.node for name in node.output if name}
    for node in graph.node:
        for place, name in enumerate(node.output):
            for truth in truths_of(node, place) if name in found else ():
                limit = allowed(name, truth)
                off = difference(found[name], truth)
                if off.size and off.max() > limit:
                    inputs = [makers[n] for n in node.input if n in makers]
                    strangers = [maker for maker in inputs if not known(maker)]
                    blamed = strangers[-1] if strangers and known(node) else node
                    step = _first_step(off > limit, steps)
                    return Suspect(blamed, name, float(off.max()), limit, step)
    return None


def difference(value: Array, truth: Array) -> Array:
    """The absolute difference, element by element; infinite where shapes or numbers are missing."""
    if value.shape != truth.shape:
        return np.full(truth.shape or (1,), np.inf)
    if value.dtype.kind not in "fiub" or truth.dtype.kind not in "fiub":
        return np.where(value == truth, 0.0, np.inf)
    return differences(value, truth)


def _first_step(off: Array, steps: int) -> int | None:
    """The first step of a value with one axis that is as long as the call has steps."""
    axes = [axis for axis, size in enumerate(off.shape) if size == steps]
    if steps < 2 or len(axes) != 1:
        return None
    others = tuple(axis for axis in range(off.ndim) if axis != axes[0])
    return int(np.flatnonzero(off.any(axis=others))[0])
