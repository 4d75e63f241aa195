# SPDX-License-Identifier: Apache-2.0
"""Whether a file without a contract can be fed in chunks, as far as its operators show.

The exporter compares whole sequences with chunks. The runtime has only the graph: it follows the
axis that grows with time through all operators. The answer is no if an operator surely ties the
steps of a call together: a layer that runs backwards, a convolution without the steps before, a
mean over time. The answer is yes if every operator is known to keep steps apart, and every layer
starts from a state. Otherwise the answer is that it is not known, with a reason.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from ...contract import ArraySpec, Axis, Contract, Streaming, axis_names
from ..onnx_outline import OnnxFile
from .computing import COMPUTING
from .dims import Value, time_of
from .moving import MOVING
from .nodes import Graph, TooManyNodesError, read_nodes
from .recurring import RECURRING
from .walk import Findings, Walk

_RULES: Final = {**MOVING, **COMPUTING, **RECURRING}


def streaming_of(file: OnnxFile, contract: Contract) -> Streaming:
    """What the graph shows about feeding the file in chunks; `ok` is None where that is not known.

    A file without a time axis takes one step, or one window, in each call.
    """
    times = _time_axes(contract)
    try:
        findings, outputs = _walk_graph(read_nodes(file.path), file, contract, times)
    except TooManyNodesError:
        return Streaming(None, "it has too many operators to be looked through")

    # Without a time axis, there are no steps to tie together.
    ties = [*findings.ties, *_lost_lasts(findings, contract, outputs)] if times else []
    doubts = findings.doubts if times else []
    if ties and (findings.recurs or _answers_each_step(contract, outputs)):
        return Streaming(False, ties[0])

    reason = _unnamed_state(contract, outputs) or _first_doubt(ties, doubts)
    if reason is None:
        return Streaming()
    return Streaming(None, reason)


def _lost_lasts(
    findings: Findings, contract: Contract, outputs: Mapping[str, Value]
) -> Iterator[str]:
    """Sentences on operators that start from a state which does not get their last state."""
    for start in findings.starts:
        sources = []
        for position, state in enumerate(contract.states, len(contract.inputs)):
            if start.origins >> position & 1:
                sources.append(state)

        carried = [outputs.get(state.output, Value()).origins & start.last for state in sources]
        if not any(carried):
            pair = f"{sources[0].input!r}, and its last state does not go to {sources[0].output!r}"
            yield f"{start.node} starts from {pair}"


def _answers_each_step(contract: Contract, outputs: Mapping[str, Value]) -> bool:
    """Whether an output has time, by the contract or as the walk has shown."""
    if any(spec.time_axis is not None for spec in contract.outputs):
        return True
    answers = [outputs.get(spec.name, Value()) for spec in contract.outputs]
    return any(time_of(value.dims) is not None for value in answers)


def _first_doubt(ties: Sequence[str], doubts: Sequence[str]) -> str | None:
    if ties:
        window = "each call gives one answer, so that it may be for one window"
        return f"{window}: {ties[0]}"
    return doubts[0] if doubts else None


def _unnamed_state(contract: Contract, outputs: Mapping[str, Value]) -> str | None:
    """A sentence on an input and an output that may be a state, but are not in the contract."""
    # The first input is the signal, and the first output is the answer.
    for position, argument in enumerate(contract.inputs[1:], 1):
        for result in contract.outputs[1:]:
            origins = outputs.get(result.name, Value()).origins
            depends = origins >> position & 1
            if depends and _are_alike(argument, result):
                return (
                    f"its input {argument.name!r} and its output {result.name!r} are alike, and "
                    "may be a state that has not been named"
                )
    return None


def _are_alike(argument: ArraySpec, result: ArraySpec) -> bool:
    """Whether an input and an output have the dtype and shape of one state."""
    if not argument.shape or argument.time_axis is not None:
        return False
    return (argument.dtype, argument.shape) == (result.dtype, result.shape)


def _time_axes(contract: Contract) -> frozenset[str]:
    """The axes that may be time: "time"; without it, all that are not the batch or a state's."""
    axes = set(axis_names(contract.inputs))
    if "time" in axes:
        return frozenset({"time"})

    return frozenset(axes - {"batch", *axis_names(contract.state_inputs)})


def _walk_graph(
    graph: Graph, file: OnnxFile, contract: Contract, times: Collection[str]
) -> tuple[Findings, dict[str, Value]]:
    """Walks through the graph; returns the findings, and the values of the graph's outputs."""

    def as_time(axis: Axis) -> Axis:
        return "time" if axis in times else axis

    scope = ChainMap[str, Value]()
    fed = states = 0
    for position, spec in enumerate((*contract.inputs, *contract.state_inputs)):
        bit = 1 << position
        dims = tuple(map(as_time, spec.shape))
        scope[spec.name] = Value(dims, bit)

        if position >= len(contract.inputs):
            states |= bit
        elif time_of(dims) is not None:
            fed |= bit

    free = 1 << len(contract.inputs) + len(contract.states)
    walk = Walk(_RULES, file.opsets.get("ai.onnx", 0), fed, states, free)
    results = walk.graph(graph, scope)
    return walk.findings, dict(zip(graph.outputs, results, strict=True))
