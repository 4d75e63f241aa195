# SPDX-License-Identifier: Apache-2.0
"""Caches that grow with every call, as decoders of transformers have: these are no states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ...contract import ArraySpec, by_name
from ...errors import InputError
from ...picking import without
from ..onnx_outline import OnnxFile
from .nodes import Graph, Node, TooManyNodesError, read_nodes

#: Operators that pass their first operand on as it is.
_COPIES: Final = frozenset({"Cast", "Identity"})


def check_growing(file: OnnxFile, pairs: Mapping[str, str]) -> None:
    """Refuses a state whose next value is longer than the state.

    That is so where the file calls an axis of the output "past + new" and that of the input "past",
    and where the output joins the input with something else along an axis without a size.

    Raises:
        InputError: a state grows; with the way out.
    """
    inputs = by_name(file.inputs)
    outputs = by_name(file.outputs)
    open_pairs = {before: after for before, after in pairs.items() if _open_axes(inputs[before])}
    if not open_pairs:
        return

    joins = _joined_axes(file, open_pairs)
    for before, after in open_pairs.items():
        axis = _longer_axis(inputs[before], outputs[after])
        if axis is None:
            axis = joins.get(before)
        if axis in _open_axes(inputs[before]):
            raise _growing(file, inputs[before], outputs[after], axis)


def _growing(file: OnnxFile, before: ArraySpec, after: ArraySpec, axis: int | None) -> InputError:
    return InputError(
        f"{file.path}: {before.name!r} grows with every call: {before} goes in, and {after} comes "
        f"out with axis {axis} longer, so that the memory and the time of a call grow too. A state "
        "has one size. Export the network with a cache of a fixed length, such as a window of the "
        "last steps (a static or sliding cache). To grow the cache by hand, run the file with "
        "ONNX Runtime itself."
    )


def _open_axes(spec: ArraySpec) -> list[int]:
    return [number for number, axis in enumerate(spec.shape) if not isinstance(axis, int)]


def _longer_axis(before: ArraySpec, after: ArraySpec) -> int | None:
    """The axis whose name in the output is a sum with its name in the input."""
    for number, (axis, next_axis) in enumerate(zip(before.shape, after.shape, strict=False)):
        if isinstance(axis, str) and isinstance(next_axis, str):
            terms = [term.strip() for term in next_axis.strip("()").split("+")]
            if len(terms) > 1 and axis.strip("()") in terms and re.search(r"\w", axis):
                return number
    return None


def _joined_axes(file: OnnxFile, pairs: Mapping[str, str]) -> dict[str, int]:
    """By state input, the axis along which its output joins it with something else."""
    try:
        graph = read_nodes(file.path)
    except TooManyNodesError:
        return {}

    producers: dict[str, Node] = {}
    for node in graph.nodes:
        producers.update(dict.fromkeys(node.outputs, node))
    ranks = {spec.name: len(spec.shape) for spec in file.inputs}
    joined = {}
    for before, after in pairs.items():
        producer = producers.get(_source(after, producers))
        if producer is not None and producer.operator == "Concat":
            sources = [_source(name, producers) for name in producer.inputs]
            if before in sources and _grows(graph, sources):
                joined[before] = producer.number("axis", 0) % max(ranks[before], 1)
    return joined


def _grows(graph: Graph, sources: list[str]) -> bool:
    """Whether at least two of the joined arrays are not empty constants."""
    constants = {name for name, tensor in graph.constants.items() if 0 in tensor.shape}

    varying = without(sources, constants)

    return len(varying) > 1


def _source(name: str, producers: Mapping[str, Node]) -> str:
    """The value that a value is a copy of."""
    while name in producers and producers[name].operator in _COPIES:
        name = producers[name].inputs[0]
    return name
