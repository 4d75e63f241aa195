"""Which input and output of the graph are one state: found by following the data, not by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import onnx_ir as ir

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


def hidden_states(graph: ir.Graph, layers: Sequence[Recurrent]) -> list[int]:
    """The numbers of the layers whose first states hang on no value that the network is given.

    They are absent, zeros, constants or parameters, made inside forward: states to be lifted.
    """
    return [
        number
        for number, layer in enumerate(layers)
        if not any(_depends(graph, first) for _, first, _ in layer.states)
    ]


def find_states(graph: ir.Graph, layers: Sequence[Recurrent], author: int) -> list[StatePair]:
    """Pairs the inputs and outputs that carry the states of these layers.

    An input and an output are one state when they carry the same states of the same layers. The
    first `author` outputs are the author's own; those behind them, the last states of every layer,
    serve where the author returns none.

    Raises:
        ExportError: a layer's first state is computed from an argument, or an argument and a
            result cannot be paired.
    """
    inputs: dict[ir.Value, set[str]] = {}
    outputs: dict[ir.Value, set[str]] = {}
    for layer, prefix in zip(layers, _prefixes(layers), strict=True):
        if _starts_inside(graph, layer):
            continue
        for letter, first, last in layer.states:
            role = f"{prefix}{letter}0"
            inputs.setdefault(_source(graph, layer, letter, first, last), set()).add(role)
            for output in _targets(graph, last):
                outputs.setdefault(output, set()).add(role)
    return [
        StatePair(position, _next(graph, value, inputs[value], outputs, author), name)
        for position, value in enumerate(graph.inputs)
        if value in inputs
        for name in [min(inputs[value]) if len(inputs[value]) == 1 else None]
    ]


def drop_spare_outputs(
    graph: ir.Graph, states: Sequence[StatePair], author: int
) -> tuple[list[StatePair], list[int]]:
    """Drops the last states that no state needs; returns the states, and the positions kept."""
    needed = {state.output for state in states}
    kept = [i for i in range(len(graph.outputs)) if i < author or i in needed]
    graph.outputs[:] = [graph.outputs[i] for i in kept]
    return [replace(state, output=kept.index(state.output)) for state in states], kept


def why_whole_only(graph: ir.Graph, layers: Iterable[Recurrent]) -> str | None:
    """Why the network needs whole sequences, as far as its layers tell."""
    for layer in layers:
        name = layer.path or layer.kind.lower()
        if layer.bidirectional:
            return f"{name} is bidirectional: its backward half needs the whole sequence"
        if _starts_inside(graph, layer):
            return f"{name} starts every call from a state that is made in the call itself"
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
    seen: Counter[str] = Counter()
    prefixes = []
    for layer in layers:
        path = layer.path.replace(".", "_") or layer.kind.lower()
        seen[path] += 1
        prefixes.append(f"{path}_" if seen[path] == 1 else f"{path}_{seen[path]}_")
    return prefixes


def _depends(graph: ir.Graph, value: ir.Value) -> bool:
    return any(True for _ in _dependencies(graph, value))


def _dependencies(graph: ir.Graph, value: ir.Value) -> Iterator[ir.Value]:
    """The graph's inputs on whose values (not only sizes) a value depends."""
    seen: set[ir.Value] = set()
    todo = [value]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        node = current.producer()
        if node is None:
            if current in graph.inputs:
                yield current
        elif node.op_type not in ("Shape", "Size"):
            todo.extend(operand for operand in node.inputs if operand is not None)


def _source(
    graph: ir.Graph, layer: Recurrent, letter: str, first: ir.Value, last: ir.Value
) -> ir.Value:
    """The graph's input that a layer's first state comes from, moved or masked, not computed."""
    sources = _spine(graph, first)
    targets = [_axes(output) for output in _targets(graph, last)]
    fitting = [value for value in sources if len(sources) == 1 or _axes(value) in targets]
    if len(fitting) == 1:
        return fitting[0]
    raise ExportError(
        f"{_name(layer)} starts from a {_STATE[letter]} that forward computes from its arguments, "
        f"so what it would be in the next call is unclear. Pass the state itself as an argument: "
        f"{layer.path or 'layer'}(x, state)."
    )


def _spine(graph: ir.Graph, value: ir.Value) -> list[ir.Value]:
    """The graph's inputs that a value is, but for moves, and masks on the way."""
    node = value.producer()
    if node is None:
        return [value] if value in graph.inputs else []
    if node.op_type in _MOVES:
        operands = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    elif node.op_type in _MASKS:
        operands = node.inputs
    else:
        return []
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


def _next(
    graph: ir.Graph,
    value: ir.Value,
    roles: set[str],
    outputs: dict[ir.Value, set[str]],
    author: int,
) -> int:
    """The position of the output that carries the same states as this input."""
    fits = [
        position
        for position, output in enumerate(graph.outputs)
        if outputs.get(output) == roles
        and _axes(output) == _axes(value)
        and output.dtype == value.dtype
    ]
    own = [position for position in fits if position < author]
    if len(own) <= 1 and fits:
        return fits[0]
    candidates = ", ".join(f"result {position + 1}" for position in own) or "none of the results"
    raise ExportError(
        f"The argument {value.name!r} {_axes(value)} holds a state, and the result that gives the "
        f"next one is not clear: {candidates}. Return exactly one, of the same shape."
    )


def _name(layer: Recurrent) -> str:
    return f"The {layer.kind} {layer.path!r}" if layer.path else f"The {layer.kind}"


def _axes(value: ir.Value) -> list[str]:
    return [str(dim) for dim in value.shape or ()]
