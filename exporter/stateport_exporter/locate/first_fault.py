# SPDX-License-Identifier: Apache-2.0
"""Which node of a graph is the first wrong one, from the values of all nodes and their truths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto

from stateport.parity.vectors import differences
from stateport.picking import positions_of, without

Array = NDArray[Any]

#: The truths of a node's output, by the output's position. None where it is unknown; two where the
#: output that was recorded in this position and the one that was recorded by this name differ.
TruthsOf = Callable[[NodeProto, int], Sequence[Array]]
#: The largest allowed difference of a value, by its name and its truth.
Allowed = Callable[[str, Array], float]


@dataclass(frozen=True)
class Suspect:
    """A node with an output that is wrong.

    Attributes:
        node: the node.
        output: the name of the output.
        error: the largest absolute difference.
        allowed: the largest one that is allowed.
        step: the first step that is wrong; None where that cannot be seen.
    """

    node: NodeProto
    output: str
    error: float
    allowed: float
    step: int | None


def first_suspect(
    graph: GraphProto,
    computed: Mapping[str, Array],
    truths_of: TruthsOf,
    allowed: Allowed,
    *,
    known: Callable[[NodeProto], bool],
    steps: int,
) -> Suspect | None:
    """The first node, in the order of the graph, with an output that is wrong.

    If one of its operands comes from a node that was not in the graph when the truth was recorded,
    that node is returned instead: somebody has put it between two others.

    Args:
        graph: the graph as it is.
        computed: the values of its nodes, as far as they could be computed.
        truths_of: what they should be.
        allowed: their largest allowed differences.
        known: whether a node was in the graph when the truth was recorded.
        steps: how many steps the call had.
    """
    for node, name, truth in _recorded_outputs(graph, computed, truths_of):
        limit = allowed(name, truth)
        error = difference(computed[name], truth)
        if error.size and error.max() > limit:
            culprit = _culprit(graph, node, known)
            step = _first_step(error > limit, steps)
            return Suspect(culprit, name, float(error.max()), limit, step)
    return None


def _recorded_outputs(
    graph: GraphProto, computed: Mapping[str, Array], truths_of: TruthsOf
) -> Iterator[tuple[NodeProto, str, Array]]:
    """The outputs that could be computed, with each of their truths."""
    for node in graph.node:
        for position, name in enumerate(node.output):
            if name in computed:
                for truth in truths_of(node, position):
                    yield node, name, truth


def _culprit(graph: GraphProto, node: NodeProto, known: Callable[[NodeProto], bool]) -> NodeProto:
    """The node that makes an output of `node` wrong: an unknown one in front of it, or itself."""
    if not known(node):
        return node

    makers = _makers(graph)
    culprit = node
    for name in node.input:
        if name in makers and not known(makers[name]):
            culprit = makers[name]
    return culprit


def _makers(graph: GraphProto) -> dict[str, NodeProto]:
    """The node that computes each value, by the value's name."""
    makers = {}
    for node in graph.node:
        outputs = {}
        for name in node.output:
            if name:
                outputs[name] = node

        makers.update(outputs)
    return makers


def difference(value: Array, truth: Array) -> Array:
    """The absolute difference of each element.

    It is infinite where the shapes differ, or where elements that are no numbers differ.
    """
    if value.shape != truth.shape:
        return np.full(truth.shape or (1,), np.inf)
    if not _is_numeric(value) or not _is_numeric(truth):
        return np.where(value == truth, 0.0, np.inf)
    return differences(value, truth)


def _is_numeric(array: Array) -> bool:
    return array.dtype.kind in "fiub"


def _first_step(wrong: Array, steps: int) -> int | None:
    """The first wrong step; None where not exactly one axis is as long as the call has steps.

    `wrong` has a boolean for each element.
    """
    time_axes = positions_of(lambda size: size == steps, wrong.shape)
    if steps < 2 or len(time_axes) != 1:
        return None

    others = tuple(without(range(wrong.ndim), time_axes))
    return int(np.flatnonzero(wrong.any(axis=others))[0])
