# SPDX-License-Identifier: Apache-2.0
"""A captured graph gets its states and names, and its layers are written in ONNX."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from stateport import Contract

from ..capture.capture import Captured
from ..capture.recorders import DOMAIN
from ..graph.opset import NEWEST_CAPTURED, lower_ir_version, raise_opset
from ..graph.transposes import fold_transposes
from ..layers import Recurrent, expand, find
from ..states.convolutions import ConvolutionContexts
from ..states.growing import growing_caches, why_growing
from ..states.hidden import Hidden
from ..states.layer_states import StatePair, reads_arguments
from ..states.naming import contract_from_graph, stamp, store_initial
from ..states.pairing import (
    States,
    Wish,
    drop_spare_outputs,
    find_states,
    why_not_carried,
    why_whole_only,
)
from ..states.possible import PossibleState, possible_states
from ..states.sequence_axis import layers_over_time
from ..streaming.reasons import (
    first_states,
    reaches_time,
    sums_up_a_call,
    why_state_counts,
    why_tied,
)


@dataclass(frozen=True)
class FinishedGraph:
    """What is known of a finished graph.

    Attributes:
        contract: what it promises, before streaming is measured.
        reason: why chunks may differ from the whole, in words; None if no reason is seen.
        inputs: the names of all inputs, in the order of the flattened arguments.
        results: the name of every result, in the order of the flattened results; None for a result
            that the graph does not have.
        initial: the first values of states that do not start from zeros, by the input's name.
        lifted: the inputs of the states that the network makes itself.
        state_parameters: the parameters of the method that take a state.
        is_tied: whether the graph ties a step to others, or sums up the steps of a call.
        possible: arguments and results that may be states and were not taken as such.
        other_levels: levels of sureness at which other pairs would be states.
    """

    contract: Contract
    reason: str | None
    is_tied: bool
    inputs: tuple[str, ...]
    results: tuple[str | None, ...]
    initial: Mapping[str, NDArray[Any]]
    lifted: tuple[str, ...]
    state_parameters: tuple[str, ...]
    possible: tuple[PossibleState, ...]
    other_levels: tuple[tuple[str, ...], ...]


def finish_graph(
    captured: Captured,
    opset: int,
    hidden: Sequence[Hidden],
    contexts: ConvolutionContexts,
    lengths: Collection[int],
    wish: Wish,
    first_values: Mapping[str, Tensor],
) -> FinishedGraph:
    """Gives a captured graph its states and names, and writes its layers in ONNX, in place.

    Args:
        captured: the graph.
        opset: the opset to write.
        hidden: the states of layers that are lifted.
        contexts: the states of convolutions that are lifted.
        lengths: the positions of inputs that hold the lengths of rows.
        wish: which arguments and results are to be states.
        first_values: by name, what arguments start from that take what the network keeps in
            attributes.
    """
    graph = captured.model.graph
    result_count = len(graph.outputs)
    layers = find(graph)
    starts = [value for each in hidden for value in each.initial] + [*contexts.initial]

    # Which inputs and outputs are one state. Layers must still be whole for that.
    names = [context.name for context in contexts.contexts]
    states = find_states(graph, layers, captured, len(starts), wish, names)
    possible = possible_states(states.possible)
    ties = _ties_of_steps(captured, layers, states, names)
    pairs, positions = drop_spare_outputs(graph, states.pairs, len(captured.output_paths))

    # The graph is only ONNX from here on.
    _write_in_onnx(captured, layers, opset)
    inputs, outputs = stamp(graph, captured, pairs)
    names_of_results = dict(zip(positions, outputs, strict=True))

    # What is lifted comes last among the inputs.
    lifted_inputs = inputs[len(inputs) - len(starts) :]
    initial = _initial_values(lifted_inputs, starts) | _remembered_values(first_values)
    store_initial(graph, initial)
    input_names = [inputs[pair.input] for pair in pairs]
    rows = [graph.inputs[position] for position in lengths]

    return FinishedGraph(
        contract=contract_from_graph(graph, pairs, ties.whole_only, initial, rows),
        reason=ties.reason,
        is_tied=ties.is_tied,
        inputs=tuple(inputs),
        results=tuple(map(names_of_results.get, range(result_count))),
        initial=initial,
        lifted=tuple(name for name in input_names if name in lifted_inputs or name in first_values),
        state_parameters=_state_parameters(captured, pairs, len(starts)),
        possible=possible,
        other_levels=states.other_levels,
    )


@dataclass(frozen=True)
class _Ties:
    """What a graph shows of how its steps depend on each other.

    Attributes:
        whole_only: why the network needs whole sequences, whatever measuring shows; None if not.
        reason: why chunks may differ from the whole sequence; None if nothing shows it.
        is_tied: whether a step depends on others by more than states, so that more data is tried.
    """

    whole_only: str | None
    reason: str | None
    is_tied: bool


def _ties_of_steps(
    captured: Captured, layers: Sequence[Recurrent], states: States, contexts: Collection[str]
) -> _Ties:
    """How steps depend on each other; `contexts` are the names of the states of convolutions."""
    graph = captured.model.graph
    over_time = [layer for layer in layers_over_time(layers) if reads_arguments(graph, layer)]
    carried = [graph.inputs[pair.input] for pair in states.pairs if pair.name not in contexts]

    caches = growing_caches(graph, captured.input_paths)
    whole_only = why_whole_only(over_time) or why_growing(caches)
    reason = (
        why_not_carried(graph, over_time, states.pairs)
        or why_tied(graph)
        or why_state_counts(over_time, carried)
        or states.unclear
    )
    starts_count = any(reaches_time(value, first_states(layers)) for value in carried)
    return _Ties(whole_only, reason, reason is not None or starts_count or sums_up_a_call(graph))


def _write_in_onnx(captured: Captured, layers: list[Recurrent], opset: int) -> None:
    """Writes layers in ONNX's operators, and declares the opset."""
    model = captured.model
    expand(model.graph, layers, captured.loops, min(opset, NEWEST_CAPTURED))
    model.graph.opset_imports.pop(DOMAIN, None)

    raise_opset(model, opset)
    lower_ir_version(model)
    fold_transposes(model)


def _initial_values(
    inputs: Sequence[str], starts: Sequence[NDArray[Any] | None]
) -> dict[str, NDArray[Any]]:
    """The first values of the lifted states that do not start from zeros."""
    named = zip(inputs, starts, strict=True)

    values = {}
    for name, value in named:
        if value is not None:
            values[name] = value
    return values


def _remembered_values(first_values: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """The first values of what is kept in attributes, where they are not zeros."""
    arrays = {}
    for name, value in first_values.items():
        if bool(value.any()):
            arrays[name] = value.numpy()
    return arrays


def _state_parameters(
    captured: Captured, pairs: Sequence[StatePair], lifted: int
) -> tuple[str, ...]:
    """The parameters of the author's method that take a state.

    The last `lifted` inputs are no arguments of the method.
    """
    own = len(captured.input_paths) - lifted

    names = []
    for pair in pairs:
        if pair.input < own:
            names.append(captured.input_paths[pair.input][0])

    return tuple(names)
