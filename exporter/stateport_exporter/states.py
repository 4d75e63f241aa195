"""Which input and output of the graph are one state: found by following the data, not by name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import onnx_ir as ir

from .capture import Captured
from .errors import ExportError
from .layers import Recurrent

# Operators that move values without computing: a state is still the same state behind them. Their
# first operand is the data (all operands, for Concat).
_MOVES: Final = frozenset(
    {"Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
# Operators by which a network clears a state with a mask: h * (1 - done), where(done, 0, h).
_MASKS: Final = frozenset({"Mul", "Where"})
Path = tuple[str, ...]
# What people call states: h, hx, h_0, c, cx, hidden, prev_state, mem, carry, ...
_STATE_NAME: Final = re.compile(
    r"(^|_)([hcsz]x?|syn|v|u)(\d*|_.*)$|hid|state|mem|carry|cell|prev|recurrent|lstm|gru|rnn"
)
_STATE: Final = {"h": "hidden state", "c": "cell state"}


@dataclass(frozen=True)
class StatePair:
    """One state: which of the graph's inputs takes it, which output gives the next one.

    Positions, because the values themselves are replaced when the layers are written in ONNX.
    `name` is what it is called where the author gave no name: "h0", or "encoder_lstm_h0" where
    several layers have states; None where one tensor holds several states.
    """

    input: int
    output: int
    name: str | None


def hidden_states(graph: ir.Graph, layers: Sequence[Recurrent]) -> list[Recurrent]:
    """The layers whose first states hang on no value that the network is given.

    They are absent, zeros, constants or parameters, made inside forward: states to be lifted.
    """
    return [
        layer for layer in layers if not any(_depends(graph, first) for _, first, _ in layer.states)
    ]


def check_sequence_axis(layers: Iterable[Recurrent]) -> None:
    """Checks that layers run over an axis that is called "time", or over a single step.

    Raises:
        ExportError: the axis has another name, so chunks of it would go unchecked.
    """
    for layer in layers:
        axes = _axes(layer.x)
        axis = axes[layer.time] if axes else "time"
        if axis != "time" and axis.isidentifier():
            raise ExportError(
                f"{_capital(layer)} runs over the axis {axis!r}. Call the axis that it runs over "
                "'time' in the example; if that is the rows of a batch, batch_first is wrong."
            )


def find_states(
    graph: ir.Graph,
    layers: Sequence[Recurrent],
    captured: Captured,
    lifted: int,
    contexts: Sequence[str] = (),
) -> list[StatePair]:
    """Pairs the inputs and outputs that carry the states of these layers.

    The last `lifted` inputs are states that forward makes itself; the outputs behind the author's
    own are the last states of every layer, which serve for those. The last ones of both belong to
    `contexts`, one each, of these names. An argument that a layer starts
    from is a state only where forward returns the next one; else it is an ordinary input.

    Raises:
        ExportError: a layer's first state is computed from an argument, or an argument and a
            result cannot be paired.
    """
    paths, author = captured.input_paths, len(captured.output_paths)
    named = [any(not key.isdigit() for key in path) for path in captured.output_paths]
    inputs: dict[ir.Value, set[str]] = {}
    outputs: dict[ir.Value, set[str]] = {}
    ends: dict[ir.Value, list[ir.Value]] = {}
    for layer, prefix in zip(layers, _prefixes(layers), strict=True):
        if _starts_inside(graph, layer):
            continue
        for letter, first, last in layer.states:
            role = f"{prefix}{letter}0"
            source = _source(layer, letter, _spine(graph, first))
            inputs.setdefault(source, set()).add(role)
            ends.setdefault(source, []).extend(layer.node.outputs)
            for output in _targets(graph, last):
                outputs.setdefault(output, set()).add(role)
    pairs: list[StatePair] = []
    for position, value in enumerate(graph.inputs):
        if value in inputs:
            roles = inputs[value]
            fits = _results_like(graph, value, author)
            following: int | None
            if position >= len(paths) - lifted:
                following = _next_of_lifted(graph, roles, outputs, fits, named)
            else:
                same = [i for i in fits if outputs.get(graph.outputs[i]) == roles]
                # Another layer's last state is that layer's own, though it is computed from this.
                computed = [i for i in fits if not outputs.get(graph.outputs[i], roles) - roles]
                following = _next_of_argument(graph, paths[position], same, computed, ends[value])
            if following is not None:
                name = min(roles) if len(roles) == 1 else None
                pairs.append(StatePair(position, following, name))
    if not layers:
        pairs = _states_of_step(graph, captured, len(paths) - lifted)
    end_in, end_out = (len(ports) - len(contexts) for ports in (graph.inputs, graph.outputs))
    pairs += [StatePair(end_in + i, end_out + i, name) for i, name in enumerate(contexts)]
    _check_one_each(graph, pairs, paths)
    return _leave_an_output(graph, pairs, author)


def _states_of_step(graph: ir.Graph, captured: Captured, count: int) -> list[StatePair]:
    """The states of a network without recurrent layers: of a cell written by hand.

    Its own are the first `count` inputs.

    Nothing says what becomes of its results, so convention has to: a state is an argument behind
    the first one, in a container or with a name that states have; the results of its axes and
    dtype that are computed from it give the next one. Where there are more of those than states,
    the first result is the output, as in `return output, state`.

    Raises:
        ExportError: there are fewer such results than arguments, or still more.
    """
    first = captured.input_paths[0][0] if captured.input_paths else ""
    kinds: dict[tuple[object, ...], list[int]] = {}
    own = zip(graph.inputs, captured.input_paths[:count], strict=False)
    for position, (value, path) in enumerate(own):
        looks_like_one = len(path) > 1 or _STATE_NAME.search(path[0])
        if path[0] != first and looks_like_one and "time" not in _axes(value):
            kinds.setdefault((*_axes(value), value.dtype), []).append(position)
    pairs = []
    for positions in kinds.values():
        values = {graph.inputs[position] for position in positions}
        fits = [
            result
            for result in _results_like(
                graph, graph.inputs[positions[0]], len(captured.output_paths)
            )
            if not values.isdisjoint(_behind(graph.outputs[result]))
        ]
        if len(fits) > len(positions) and fits[0] == 0:
            fits = fits[1:]
        names = ", ".join(repr(".".join(captured.input_paths[p])) for p in positions)
        called = f"argument {names} looks like a state"
        if len(positions) > 1:
            called = f"arguments {names} look like states"
        if len(fits) > len(positions):
            candidates = ", ".join(f"result {i + 1}" for i in fits)
            raise ExportError(
                f"The {called}, and which result gives the next one is not clear: {candidates} "
                "are all of that shape. Return one next state for each, behind the output, or give "
                "an argument that is no state another name."
            )
        if 0 < len(fits) < len(positions):
            raise ExportError(
                f"The {called}, and only {len(fits)} of the results could be the next "
                "ones. Return the next state of each, in the same order, or give an argument that "
                "is no state another name."
            )
        for position, result in zip(positions, fits, strict=bool(fits)):
            pairs.append(StatePair(position, result, None))
    return pairs


def _check_one_each(
    graph: ir.Graph, pairs: Sequence[StatePair], paths: Sequence[tuple[str, ...]]
) -> None:
    for first, second in itertools.combinations(pairs, 2):
        if graph.outputs[first.output] is graph.outputs[second.output]:
            raise ExportError(
                f"The arguments {'.'.join(paths[first.input])!r} and "
                f"{'.'.join(paths[second.input])!r} hold two states, but one result, result "
                f"{second.output + 1}, would be the next of both. Return one for each."
            )


def _leave_an_output(graph: ir.Graph, pairs: list[StatePair], author: int) -> list[StatePair]:
    """Where all results are states, as a cell's are, the first one stays an output as well."""
    if not {pair.output for pair in pairs} >= set(range(author)):
        return pairs
    origins = [_origin(output) for output in graph.outputs]
    spare = next((i for i in range(author, len(origins)) if origins[i] is origins[0]), None)
    return [replace(p, output=spare) if p.output == 0 and spare else p for p in pairs]


def _origin(value: ir.Value) -> ir.Value:
    """The value itself, behind the copies that PyTorch's exporter makes of repeated results."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


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
        sources = [value for _, first, _ in layer.states for value in _spine(graph, first)]
        if not sources:
            return f"{name} starts every call from a state that is made in the call itself"
        if not carried.issuperset(sources):
            return f"{name} starts from an argument, and its last state is not returned"
    return None


def _starts_inside(graph: ir.Graph, layer: Recurrent) -> bool:
    """Whether a layer's first state is made in this call: from its sequences, or from nothing.

    Such a state, a decoder's for example, is no state of the network: nothing is carried from call
    to call.
    """
    if any(_spine(graph, first) for _, first, _ in layer.states):
        return False
    reached = {value for _, first, _ in layer.states for value in _dependencies(graph, first)}
    return not reached or any("time" in _axes(value) for value in reached)


def _prefixes(layers: Sequence[Recurrent]) -> list[str]:
    """What comes before h0 and c0: nothing, or the layer's path; a repeated one is counted."""
    if len(layers) == 1:
        return [""]
    prefixes: list[str] = []
    for layer in layers:
        path = layer.path.replace(".", "_") or layer.kind.lower()
        prefix, number = f"{path}_", 1
        while prefix in prefixes:
            number += 1
            prefix = f"{path}_{number}_"
        prefixes.append(prefix)
    return prefixes


def _depends(graph: ir.Graph, value: ir.Value) -> bool:
    return any(True for _ in _dependencies(graph, value))


def _dependencies(graph: ir.Graph, value: ir.Value) -> Iterator[ir.Value]:
    """The graph's inputs on whose values (not only sizes) a value depends."""
    return (behind for behind in _behind(value) if behind in graph.inputs)


def _behind(value: ir.Value) -> Iterator[ir.Value]:
    """A value and all that it is computed from; what only lends its size is left out."""
    seen: set[ir.Value] = set()
    todo = [value]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        yield current
        node = current.producer()
        if node is not None and node.op_type not in ("Shape", "Size"):
            todo.extend(operand for operand in node.inputs if operand is not None)


def _source(layer: Recurrent, letter: str, sources: Sequence[ir.Value]) -> ir.Value:
    """The graph's input that a layer's first state comes from, moved or masked, not computed."""
    if len(sources) == 1:
        return sources[0]
    what = _STATE.get(letter, "state")
    raise ExportError(
        f"{_capital(layer)} starts from a {what} that forward computes from its arguments, so what "
        "it would be in the next call is unclear. Pass the state itself, in one tensor: "
        f"{layer.path or 'layer'}(x, state)."
    )


def _spine(graph: ir.Graph, value: ir.Value) -> list[ir.Value]:
    """The graph's inputs that a value is, but for moves, and masks on the way."""
    node = value.producer()
    if node is None:
        return [value] if value in graph.inputs and "time" not in _axes(value) else []
    operands: Sequence[ir.Value | None] = ()
    if node.op_type in _MOVES:
        operands = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    elif node.op_type in _MASKS:
        # The state has the shape of the result; a mask is spread over it, or is a condition.
        values = node.inputs[1:] if node.op_type == "Where" else node.inputs
        operands = [v for v in values if v is not None and _axes(v) == _axes(value)]
    found = [v for operand in operands if operand is not None for v in _spine(graph, operand)]
    return list(dict.fromkeys(found))


def _targets(graph: ir.Graph, last: ir.Value) -> set[ir.Value]:
    """The graph's outputs that a layer's last state goes to, moved but not computed."""
    seen: set[ir.Value] = set()
    todo = [last]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for node, position in current.uses():
            if node.op_type in _MOVES and (position == 0 or node.op_type == "Concat"):
                todo.extend(node.outputs)
    return {output for output in graph.outputs if output in seen}


def _results_like(graph: ir.Graph, value: ir.Value, author: int) -> list[int]:
    """The positions of the author's results that have the axes and dtype of an argument."""
    return [
        position
        for position, output in enumerate(graph.outputs[:author])
        if _axes(output) == _axes(value) and output.dtype == value.dtype
    ]


def _next_of_lifted(
    graph: ir.Graph,
    roles: set[str],
    outputs: dict[ir.Value, set[str]],
    like: Sequence[int],
    named: Sequence[bool],
) -> int:
    """The output that gives a lifted state.

    That is the author's own where forward returns it as PyTorch's layers do, behind the output:
    `return y, state`. A result with a name, or the only one, stays a result, and so does one of
    another shape: `like` are the author's results that have the state's.
    """
    fits = [i for i, output in enumerate(graph.outputs) if outputs.get(output) == roles]
    own = [i for i in fits if i > 0 and i in like and not named[i]]
    return own[0] if len(own) == 1 else next(i for i in fits if i >= len(named))


def _next_of_argument(
    graph: ir.Graph,
    path: Path,
    same: Sequence[int],
    fits: Sequence[int],
    ends: Sequence[ir.Value],
) -> int | None:
    """The author's result that gives the next state of an argument; None where there is none.

    `same` are the results that are this state, moved; else one of `fits` that is computed from
    what the layer gives (scaled, masked, normalised) serves, if it is the only one of its shape.
    """
    distinct = {id(graph.outputs[i]): i for i in reversed(same)}
    if not distinct:
        computed = [i for i in fits if not set(ends).isdisjoint(_behind(graph.outputs[i]))]
        distinct = {i: i for i in computed}
    if len(distinct) > 1:
        candidates = ", ".join(f"result {i + 1}" for i in sorted(distinct.values()))
        raise ExportError(
            f"The argument {'.'.join(path)!r} holds a state, and the result that gives the next "
            f"one is not clear: {candidates}. Return exactly one of its shape."
        )
    return next(iter(distinct.values()), None)


def _axes(value: ir.Value) -> list[str]:
    return [str(dim) for dim in value.shape or ()]


def _capital(layer: Recurrent) -> str:
    text = str(layer)
    return text[0].upper() + text[1:]
