# SPDX-License-Identifier: Apache-2.0
"""Which inputs and outputs of a graph are one state: declared, of a layer, or of a step."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from stateport.picking import among, without

from ..capture.capture import Captured
from ..errors import ExportError
from ..graph.dataflow import axes, behind, origin
from ..layers import Recurrent
from .layer_states import Roles, StatePair, first_state_inputs, pairs_of_layers, roles_of
from .names import Path
from .pairs import NAMED, SHAPED, SURE, Matches, Port, match, not_at
from .possible import alike


@dataclass(frozen=True)
class Wish:
    """Which arguments and results the caller wants as states.

    Attributes:
        declared: by the positions of arguments, the position of the result that gives the next
            value, or None for what is no state.
        names: what the author calls the results.
        levels: how sure a pair must be to be taken as a state: SURE, NAMED, SHAPED of `pairs`.
    """

    declared: Mapping[int, int | None]
    names: Sequence[Path]
    levels: Collection[str] = (SURE, NAMED)


@dataclass(frozen=True)
class States:
    """The states of a graph, and what may be states and was not taken.

    Attributes:
        pairs: the states.
        possible: arguments and results that look like a pair.
        other_levels: levels for which other pairs would be taken; empty for a single step, where
            nothing can be tried.
        unclear: what could not be decided, in words; None where everything could.
    """

    pairs: list[StatePair]
    possible: tuple[tuple[Port, Port], ...]
    other_levels: tuple[tuple[str, ...], ...]
    unclear: str | None


def find_states(
    graph: ir.Graph,
    layers: Sequence[Recurrent],
    captured: Captured,
    lifted: int,
    wish: Wish,
    contexts: Sequence[str] = (),
) -> States:
    """Pairs the inputs and outputs that carry states from one call into the next.

    An argument that a layer starts from is a state only where forward returns the next one; else it
    is an ordinary input.

    Args:
        graph: the graph. Behind the author's own outputs it has the last states of every layer, and
            then those of `contexts`.
        layers: its recurrent layers. Their states are found by following the data to and from them;
            those of other arguments by `pairs`.
        captured: what the author calls inputs and outputs.
        lifted: the number of inputs, at the end, that take states that forward makes itself.
        wish: what the caller wants.
        contexts: the names of the states of convolutions, for the last inputs and outputs.

    Raises:
        ExportError: a layer's first state is computed from an argument; or it is not clear which
            arguments and results of a single step are states.
    """
    author = len(captured.output_paths)
    own = len(captured.input_paths) - lifted
    paths = captured.input_paths[:own]
    results = [Port(i, path, graph.outputs[i]) for i, path in enumerate(wish.names)]

    # What the caller, layers and convolutions leave no doubt about.
    declared_inputs = {graph.inputs[position] for position in wish.declared}
    of_contexts = {*graph.inputs[len(graph.inputs) - len(contexts) :]}
    roles = roles_of(graph, layers, declared_inputs, of_contexts)
    pairs = _declared_pairs(wish)
    pairs += pairs_of_layers(graph, captured, own, roles, wish.declared)
    pairs += _context_pairs(graph, contexts)

    # What data flow, shapes and names show of the rest.
    arguments = _open_arguments(graph, paths, pairs, wish)
    matches = _match_others(arguments, _open_results(results, pairs), roles, alone=author == 1)
    is_single_step = not any("time" in axes(value) for value in graph.inputs)
    if is_single_step and matches.unclear:
        raise ExportError(matches.unclear[0])
    pairs += [StatePair(i, o, None) for i, o in matches.of(wish.levels)]

    pairs.sort(key=lambda pair: pair.input)
    _check_distinct_outputs(graph, pairs, captured.input_paths)
    _check_inputs(graph, pairs, captured.input_paths, own)

    arguments = _open_arguments(graph, paths, pairs, wish)
    possible = tuple(alike(arguments, _open_results(results, pairs)))
    other_levels = () if is_single_step else _other_levels(matches, wish.levels)
    pairs = _leave_an_output(graph, pairs, author)
    return States(pairs, possible, other_levels, " ".join(matches.unclear) or None)


def drop_spare_outputs(
    graph: ir.Graph, states: Sequence[StatePair], author: int
) -> tuple[list[StatePair], list[int]]:
    """Drops the last states of layers that no state needs, in place.

    `author` is the number of the author's own results, which stay. Returns the states, and the
    positions of the outputs that stayed.
    """
    needed = {*range(author), *(state.output for state in states)}

    staying = among(range(len(graph.outputs)), needed)

    graph.outputs[:] = [graph.outputs[position] for position in staying]

    moved_states = [replace(state, output=staying.index(state.output)) for state in states]
    return moved_states, staying


def why_whole_only(layers: Iterable[Recurrent]) -> str | None:
    """Why the network needs whole sequences, whatever measuring shows."""
    for layer in layers:
        name = _layer_name(layer)
        if layer.bidirectional:
            return f"{name} is bidirectional: its backward half needs the whole sequence"
        if layer.lengths is not None:
            return f"{name} takes the length of each row, which is unknown for a chunk"
    return None


def why_not_carried(
    graph: ir.Graph, layers: Sequence[Recurrent], states: Iterable[StatePair]
) -> str | None:
    """Why a layer's state is not carried from call to call; None where all are carried."""
    carried = {graph.inputs[state.input] for state in states}
    has_time = any("time" in axes(value) for value in graph.inputs)

    for layer in layers:
        if not layer.states:  # a loop whose steps do not depend on each other
            continue

        name = _layer_name(layer)
        sources = first_state_inputs(graph, layer)
        if not sources and _follows(layer, carried):
            if not has_time:  # a call is one step, in which layers may follow one another
                continue
            return _why_it_follows(layer, layers)
        if not sources:
            return f"{name} starts every call from a state that is made in the call itself"
        if not carried.issuperset(sources):
            return f"{name} starts from an argument, and its last state is not returned"
    return None


def _why_it_follows(layer: Recurrent, layers: Sequence[Recurrent]) -> str:
    """Why a state that goes from call to call is not the one that a layer starts from."""
    name = _layer_name(layer)
    sequence = axes(layer.x)
    if sequence and sequence[layer.time] == "1":
        return f"forward computes a single step of each call by {name}, apart from the others"

    made = {result: other for other in layers for result in other.node.outputs}
    for value in _behind_first_states(layer):
        if value in made:
            other = _layer_name(made[value])
            if other == name:
                return f"{name} runs more than once in each call, and goes on from its last run"
            return f"{name} starts in each call from what {other} gives for that call"
    return (
        f"the state that goes from call to call is not that of {name}: one is computed from the "
        "other in each call"
    )


def _follows(layer: Recurrent, inputs: Collection[ir.Value]) -> bool:
    """Whether a first state of a layer is computed from one of these inputs."""
    return any(value in inputs for value in _behind_first_states(layer))


def _behind_first_states(layer: Recurrent) -> Iterator[ir.Value]:
    """The values that a layer's first states are computed from."""
    return itertools.chain.from_iterable(behind(first) for _, first, _ in layer.states)


def _layer_name(layer: Recurrent) -> str:
    return layer.path or layer.kind.lower()


def _declared_pairs(wish: Wish) -> list[StatePair]:
    """The states that the caller declares."""
    pairs = []

    for argument, result in wish.declared.items():
        if result is not None:
            pairs.append(StatePair(argument, result, None))
    return pairs


def _context_pairs(graph: ir.Graph, names: Sequence[str]) -> list[StatePair]:
    """The states of convolutions: the last inputs and the last outputs."""
    first_input = len(graph.inputs) - len(names)
    first_output = len(graph.outputs) - len(names)

    pairs = []
    for number, name in enumerate(names):
        pairs.append(StatePair(first_input + number, first_output + number, name))
    return pairs


def _match_others(
    arguments: Sequence[Port], results: Sequence[Port], roles: Roles, *, alone: bool
) -> Matches:
    """Matches arguments and results that carry no layer's state."""
    other_arguments = [port for port in arguments if port.value not in roles.inputs]
    other_results = [port for port in results if port.value not in roles.outputs]
    return match(other_arguments, other_results, alone=alone)


def _open_arguments(
    graph: ir.Graph, paths: Sequence[Path], pairs: Iterable[StatePair], wish: Wish
) -> list[Port]:
    """The author's arguments that are no states and not declared.

    The first argument that is no state is what the network is fed.
    """
    states = {pair.input for pair in pairs}

    positions = without(range(len(paths)), states)
    ports = []
    for position in positions:
        path = paths[position]
        leads = path[0] == paths[positions[0]][0]
        if position not in wish.declared:
            ports.append(Port(position, path, graph.inputs[position], leads))
    return ports


def _open_results(results: Iterable[Port], pairs: Iterable[StatePair]) -> list[Port]:
    """The results that are no state's next value."""
    used = {pair.output for pair in pairs}
    return not_at(results, used)


def _other_levels(matches: Matches, levels: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """The other choices of levels, each with pairs that no choice before it has."""
    tried = [matches.of(levels)]
    choices = []

    for choice in ((SURE, NAMED, SHAPED), (SURE,), ()):
        pairs = matches.of(choice)
        if pairs not in tried:
            tried.append(pairs)
            choices.append(choice)
    return tuple(choices)


def _check_distinct_outputs(
    graph: ir.Graph, pairs: Sequence[StatePair], paths: Sequence[Path]
) -> None:
    """Checks that no result is the next value of two states."""
    for first, second in itertools.combinations(pairs, 2):
        if graph.outputs[first.output] is graph.outputs[second.output]:
            raise ExportError(
                f"The arguments {'.'.join(paths[first.input])!r} and "
                f"{'.'.join(paths[second.input])!r} hold two states, but one result, result "
                f"{second.output + 1}, would be the next of both. Return one for each, or declare "
                "the result of each: states={'name': 2} (on the command line, --state name=2)."
            )


def _check_inputs(
    graph: ir.Graph, pairs: Sequence[StatePair], paths: Sequence[Path], own: int
) -> None:
    """Checks that an input remains, and that inputs have every axis of the states.

    The first `own` inputs are the author's arguments.
    """
    states = {pair.input for pair in pairs}

    rest = []
    for position, value in enumerate(graph.inputs):
        if position not in states:
            rest.append(value)

    if pairs and not rest:
        raise ExportError(
            "All arguments would be states, so the file would have no input: "
            f"{', '.join(map('.'.join, paths[:own]))}. Declare one that is no state: "
            "states={'name': None}, or --no-state name."
        )

    known = {axis for value in rest for axis in axes(value)}
    for pair in pairs:
        unknown = _first_unknown_axis(graph.inputs[pair.input], known)
        if unknown is not None:
            raise ExportError(
                f"The state {'.'.join(paths[pair.input])!r} has the axis {unknown!r}, which no "
                "input has, so that a sequence has nothing to start from. Give it a fixed size "
                "in the example."
            )


def _first_unknown_axis(state: ir.Value, known: Collection[str]) -> str | None:
    """The first axis of a state whose size neither the graph nor an input gives."""
    for axis in axes(state):
        is_fixed = axis.isdigit()
        if not is_fixed and axis not in known:
            return axis
    return None


def _leave_an_output(graph: ir.Graph, pairs: list[StatePair], author: int) -> list[StatePair]:
    """Where all results are states, as a cell's are, the first that can stays an output as well.

    A result can stay where the same value is among the last states behind the author's results.
    """
    state_outputs = {pair.output for pair in pairs}
    if not state_outputs.issuperset(range(author)):
        return pairs

    origins = [*map(origin, graph.outputs)]
    for result in range(author):
        spare = _first_same(origins, result, range(author, len(origins)))
        if spare is not None:
            return [_with_output(pair, result, spare) for pair in pairs]

    raise ExportError(
        "All results of forward are states, so the file would have no output. Return the output as "
        "well, in front of them."
    )


def _with_output(pair: StatePair, output: int, spare: int) -> StatePair:
    """The same state, from the output `spare` if it is from `output`."""
    if pair.output == output:
        return replace(pair, output=spare)
    return pair


def _first_same(values: Sequence[ir.Value], position: int, candidates: Iterable[int]) -> int | None:
    """The first of some positions that has the same value as another position."""
    for candidate in candidates:
        if values[candidate] is values[position]:
            return candidate
    return None
