"""Which inputs and outputs of a graph are one state: declared, of a layer, or of a step."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ..capture.capture import Captured
from ..errors import ExportError
from ..graph.dataflow import axes, origin
from ..layers import Recurrent
from .layer_states import StatePair, pairs_of_layers, roles_of, spine
from .pairs import NAMED, SHAPED, SURE, Matches, Port, match
from .possible import alike

Path = tuple[str, ...]


@dataclass(frozen=True)
class Wish:
    """What is asked for.

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
        left: arguments and results that look like a pair.
        others: levels for which other pairs would be taken; empty for a single step, where nothing
            can be tried.
        unclear: what could not be told, in words; None where all could.
    """

    pairs: list[StatePair]
    left: tuple[tuple[Port, Port], ...]
    others: tuple[tuple[str, ...], ...]
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

    Those of recurrent layers are found by following the data to and from the layers; those that are
    left by `pairs`. The last `lifted` inputs are states that forward makes itself; the outputs
    behind the author's own are the last states of every layer, which serve for those. The last ones
    of both belong to `contexts`, one each, of these names. An argument that a layer starts from is
    a state only where forward returns the next one; else it is an ordinary input.

    Raises:
        ExportError: a layer's first state is computed from an argument; or which arguments and
            results of a single step are states cannot be told.
    """
    author, own = len(captured.output_paths), len(captured.input_paths) - lifted
    paths = captured.input_paths[:own]
    roles = roles_of(graph, layers, {graph.inputs[position] for position in wish.declared})
    pairs = [StatePair(i, o, None) for i, o in wish.declared.items() if o is not None]
    pairs += pairs_of_layers(graph, captured, own, roles, wish.declared)
    end_in, end_out = (len(ports) - len(contexts) for ports in (graph.inputs, graph.outputs))
    pairs += [StatePair(end_in + i, end_out + i, name) for i, name in enumerate(contexts)]

    results = [Port(i, path, graph.outputs[i]) for i, path in enumerate(wish.names)]
    arguments = [p for p in _arguments(graph, paths, pairs) if p.position not in wish.declared]
    matches = match(
        [port for port in arguments if port.value not in roles.inputs],
        [port for port in _unused(results, pairs) if port.value not in roles.outputs],
        alone=author == 1,
    )
    stepwise = not any("time" in axes(value) for value in graph.inputs)
    if matches.unclear and stepwise:
        raise ExportError(matches.unclear[0])
    pairs += [StatePair(i, o, None) for i, o in matches.of(wish.levels)]
    pairs.sort(key=lambda pair: pair.input)
    _check(graph, pairs, captured.input_paths, own)

    arguments = [p for p in _arguments(graph, paths, pairs) if p.position not in wish.declared]
    left = tuple(alike(arguments, _unused(results, pairs)))
    others = () if stepwise else _other_levels(matches, wish.levels)
    pairs = _leave_an_output(graph, pairs, author)
    return States(pairs, left, others, " ".join(matches.unclear) or None)


def _unused(results: Iterable[Port], pairs: Iterable[StatePair]) -> list[Port]:
    used = {pair.output for pair in pairs}
    return [result for result in results if result.position not in used]


def _arguments(graph: ir.Graph, paths: Sequence[Path], pairs: Iterable[StatePair]) -> list[Port]:
    """The author's arguments that are no states; the first of them is what the network is fed."""
    states = {pair.input for pair in pairs}
    rest = [i for i in range(len(paths)) if i not in states]
    return [Port(i, paths[i], graph.inputs[i], paths[i][0] == paths[rest[0]][0]) for i in rest]


def _other_levels(matches: Matches, levels: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """The other choices of levels, each with pairs that no choice before it has."""
    seen, others = [matches.of(levels)], []
    for choice in ((SURE, NAMED, SHAPED), (SURE,), ()):
        pairs = matches.of(choice)
        if pairs not in seen:
            seen.append(pairs)
            others.append(choice)
    return tuple(others)


def _check(graph: ir.Graph, pairs: Sequence[StatePair], paths: Sequence[Path], own: int) -> None:
    """Checks that every state has an output of its own, and axes whose sizes inputs tell."""
    for first, second in itertools.combinations(pairs, 2):
        if graph.outputs[first.output] is graph.outputs[second.output]:
            raise ExportError(
                f"The arguments {'.'.join(paths[first.input])!r} and "
                f"{'.'.join(paths[second.input])!r} hold two states, but one result, result "
                f"{second.output + 1}, would be the next of both. Return one for each."
            )
    states = {pair.input for pair in pairs}
    rest = [value for i, value in enumerate(graph.inputs) if i not in states]
    if pairs and not rest:
        raise ExportError(
            "All arguments would be states, so the file would have no input: "
            f"{', '.join(map('.'.join, paths[:own]))}. Say which is none: states={{'name': None}}, "
            "or --no-state name."
        )
    known = {axis for value in rest for axis in axes(value)}
    for pair in pairs:
        for axis in axes(graph.inputs[pair.input]):
            if not axis.isdigit() and axis not in known:
                raise ExportError(
                    f"The state {'.'.join(paths[pair.input])!r} has the axis {axis!r}, which no "
                    "input has, so that a sequence has nothing to start from. Give it a fixed size "
                    "in the example."
                )


def _leave_an_output(graph: ir.Graph, pairs: list[StatePair], author: int) -> list[StatePair]:
    """Where all results are states, as a cell's are, the first that can stays an output as well."""
    if not {pair.output for pair in pairs} >= set(range(author)):
        return pairs
    origins = [origin(output) for output in graph.outputs]
    for kept in range(author):
        spare = next((i for i in range(author, len(origins)) if origins[i] is origins[kept]), None)
        if spare is not None:
            return [replace(p, output=spare) if p.output == kept else p for p in pairs]
    raise ExportError(
        "All results of forward are states, so the file would have no output. Return the output as "
        "well, in front of them."
    )


def drop_spare_outputs(
    graph: ir.Graph, states: Sequence[StatePair], author: int
) -> tuple[list[StatePair], list[int]]:
    """Drops the last states that no state needs; returns the states, and the positions kept."""
    needed = {state.output for state in states}
    kept = [i for i in range(len(graph.outputs)) if i < author or i in needed]
    graph.outputs[:] = [graph.outputs[i] for i in kept]
    return [replace(state, output=kept.index(state.output)) for state in states], kept


def why_whole_only(layers: Iterable[Recurrent]) -> str | None:
    """Why the network needs whole sequences, whatever measuring shows."""
    for layer in layers:
        if layer.bidirectional:
            name = layer.path or layer.kind.lower()
            return f"{name} is bidirectional: its backward half needs the whole sequence"
        if layer.lengths is not None:
            name = layer.path or layer.kind.lower()
            return f"{name} is told the length of each row, which chunks of it have not"
    return None


def why_not_carried(
    graph: ir.Graph, layers: Iterable[Recurrent], states: Iterable[StatePair]
) -> str | None:
    """Why a layer's state is not carried from call to call, where one is not."""
    carried = {graph.inputs[state.input] for state in states}
    for layer in layers:
        name = layer.path or layer.kind.lower()
        sources = [value for _, first, _ in layer.states for value in spine(graph, first)]
        if not sources:
            return f"{name} starts every call from a state that is made in the call itself"
        if not carried.issuperset(sources):
            return f"{name} starts from an argument, and its last state is not returned"
    return None
