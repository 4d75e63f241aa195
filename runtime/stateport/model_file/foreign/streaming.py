"""Whether a file without a contract can be fed in chunks: told from its operators.

Where the exporter runs whole sequences and chunks, the runtime has the graph alone. It follows the
axis that grows with time through all operators. What surely ties the steps of a call together, a
layer that runs backwards, a convolution without the steps before, a mean over time, is a no. A yes
needs operators of which each is known to keep steps apart, and layers that start from states. All
else is not known, and said so.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Mapping
from typing import Final

from ...contract import Axis, Contract, Streaming
from ..onnx_outline import OnnxFile
from .computing import COMPUTING
from .dims import Value, time_of
from .moving import MOVING
from .nodes import Graph, TooManyNodesError, read_nodes
from .recurring import RECURRING
from .walk import Findings, Walk

_RULES: Final = {**MOVING, **COMPUTING, **RECURRING}


def streaming_of(file: OnnxFile, contract: Contract) -> Streaming:
    """What is known of feeding a file in chunks; `ok` is None where that is nothing sure.

    A file without an axis for time takes one step, or one window, in each call.
    """
    times = _times(contract)
    try:
        findings, outputs = _walk(read_nodes(file.path), file, contract, times)
    except TooManyNodesError:
        return Streaming(None, "it has too many operators to be looked through")
    per_step = any(spec.time_axis is not None for spec in contract.outputs) or any(
        time_of(value.dims) is not None for value in outputs.values()
    )
    if times and findings.ties and (per_step or findings.recurs):
        return Streaming(False, findings.ties[0])
    reason = _left(contract, outputs)
    if reason is None and times and findings.ties:
        window = "each call gives one answer, so that it may be for one window"
        reason = f"{window}: {findings.ties[0]}"
    if reason is None and times and findings.doubts:
        reason = findings.doubts[0]
    return Streaming() if reason is None else Streaming(None, reason)


def _left(contract: Contract, outputs: Mapping[str, Value]) -> str | None:
    """An input and an output that may be a state, beside those that are none."""
    if len(contract.inputs) < 2 or len(contract.outputs) < 2:
        return None
    # The first ones are what the file is for.
    for place, given in enumerate(contract.inputs[1:], 1):
        for gives in contract.outputs[1:]:
            alike = (given.dtype, given.shape) == (gives.dtype, gives.shape) and given.shape
            hangs = outputs.get(gives.name, Value()).origins >> place & 1
            if alike and hangs and given.time_axis is None:
                return (
                    f"its input {given.name!r} and its output {gives.name!r} are alike, and may be "
                    "a state that has not been named"
                )
    return None


def _times(contract: Contract) -> frozenset[str]:
    """The axes that may be time: the one of that name, or all that are no batch and no state's."""
    axes = {axis for spec in contract.inputs for axis in spec.shape if isinstance(axis, str)}
    kept = {axis for state in contract.states for axis in state.shape}
    return frozenset({"time"}) if "time" in axes else frozenset(axes - {"batch"} - kept)


def _walk(
    graph: Graph, file: OnnxFile, contract: Contract, times: Collection[str]
) -> tuple[Findings, dict[str, Value]]:
    def named(axis: Axis) -> Axis:
        return "time" if axis in times else axis

    scope, fed, states = ChainMap[str, Value](), 0, 0
    for place, spec in enumerate((*contract.inputs, *contract.state_inputs)):
        dims = tuple(named(axis) for axis in spec.shape)
        scope[spec.name] = Value(dims, 1 << place)
        if place >= len(contract.inputs):
            states |= 1 << place
        elif time_of(dims) is not None:
            fed |= 1 << place
    walk = Walk(_RULES, file.opsets.get("ai.onnx", 0), fed, states)
    results = walk.graph(graph, scope)
    names = {spec.name for spec in contract.outputs}
    pairs = zip(graph.outputs, results, strict=True)
    return walk.findings, {name: value for name, value in pairs if name in names}
