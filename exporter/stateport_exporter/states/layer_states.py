"""The states of recurrent layers: found by following the data to and from each layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from ..capture.capture import Captured
from ..errors import ExportError
from ..graph.dataflow import MOVES, axes, behind, results_like, targets
from ..layers import Recurrent

# Operators by which a network clears a state with a mask: h * (1 - done), where(done, 0, h).
_MASKS: Final = frozenset({"Mul", "Where"})
Path = tuple[str, ...]
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
    """The layers whose first states depend on no value that the network is given.

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
        named = axes(layer.x)
        axis = named[layer.time] if named else "time"
        if axis != "time" and axis.isidentifier():
            raise ExportError(
                f"{_capital(layer)} runs over the axis {axis!r}. Call the axis that it runs over "
                "'time' in the example; if that is the rows of a batch, batch_first is wrong."
            )


@dataclass(frozen=True)
class Roles:
    """The states of layers that inputs and outputs carry, and what layers that start there give."""

    inputs: Mapping[ir.Value, set[str]]
    outputs: Mapping[ir.Value, set[str]]
    ends: Mapping[ir.Value, list[ir.Value]]


def roles_of(graph: ir.Graph, layers: Sequence[Recurrent], declared: Collection[ir.Value]) -> Roles:
    """Follows the data to and from all layers, but those that start from `declared` inputs alone.

    Raises:
        ExportError: a layer's first state is computed from an argument.
    """
    roles = Roles(defaultdict(set), defaultdict(set), defaultdict(list))
    for layer, prefix in zip(layers, _prefixes(layers), strict=True):
        firsts = {value for _, first, _ in layer.states for value in _dependencies(graph, first)}
        if _starts_inside(graph, layer) or (firsts and firsts.issubset(declared)):
            continue
        for letter, first, last in layer.states:
            role = f"{prefix}{letter}0"
            source = _source(layer, letter, spine(graph, first))
            roles.inputs[source].add(role)
            roles.ends[source].extend(layer.node.outputs)
            for output in targets(graph, last):
                roles.outputs[output].add(role)
    return roles


def pairs_of_layers(
    graph: ir.Graph, captured: Captured, own: int, roles: Roles, declared: Mapping[int, int | None]
) -> list[StatePair]:
    """The states of recurrent layers: of the first `own` inputs, and of those that are lifted."""
    named = [any(not key.isdigit() for key in path) for path in captured.output_paths]
    pairs = []
    for position, value in enumerate(graph.inputs):
        if value not in roles.inputs or position in declared:
            continue
        role, path = roles.inputs[value], captured.input_paths[position]
        fits = results_like(graph, value, len(named))
        fits = [i for i in fits if i not in declared.values()]
        following: int | None
        if position >= own:
            following = _next_of_lifted(graph, role, roles.outputs, fits, named)
        else:
            same = [i for i in fits if roles.outputs.get(graph.outputs[i]) == role]
            # Another layer's last state is that layer's own, though it is computed from this.
            computed = [i for i in fits if not roles.outputs.get(graph.outputs[i], role) - role]
            following = _next_of_argument(graph, path, same, computed, roles.ends[value])
        if following is not None:
            pairs.append(StatePair(position, following, min(role) if len(role) == 1 else None))
    return pairs


def _starts_inside(graph: ir.Graph, layer: Recurrent) -> bool:
    """Whether a layer's first state is made in this call: from its sequences, or from nothing.

    Such a state, a decoder's for example, is no state of the network: nothing is carried from call
    to call.
    """
    if any(spine(graph, first) for _, first, _ in layer.states):
        return False
    reached = {value for _, first, _ in layer.states for value in _dependencies(graph, first)}
    return not reached or any("time" in axes(value) for value in reached)


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
    return (behind for behind in behind(value) if behind in graph.inputs)


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


def spine(graph: ir.Graph, value: ir.Value) -> list[ir.Value]:
    """The graph's inputs that a value is, but for moves, and masks on the way."""
    node = value.producer()
    if node is None:
        return [value] if value in graph.inputs and "time" not in axes(value) else []
    operands: Sequence[ir.Value | None] = ()
    if node.op_type in MOVES:
        operands = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    elif node.op_type in _MASKS:
        # The state has the shape of the result; a mask is spread over it, or is a condition.
        values = node.inputs[1:] if node.op_type == "Where" else node.inputs
        operands = [v for v in values if v is not None and axes(v) == axes(value)]
    found = [v for operand in operands if operand is not None for v in spine(graph, operand)]
    return list(dict.fromkeys(found))


def _next_of_lifted(
    graph: ir.Graph,
    roles: set[str],
    outputs: Mapping[ir.Value, set[str]],
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
        computed = [i for i in fits if not set(ends).isdisjoint(behind(graph.outputs[i]))]
        distinct = {i: i for i in computed}
    if len(distinct) > 1:
        candidates = ", ".join(f"result {i + 1}" for i in sorted(distinct.values()))
        raise ExportError(
            f"The argument {'.'.join(path)!r} holds a state, and the result that gives the next "
            f"one is not clear: {candidates}. Return exactly one of its shape."
        )
    return next(iter(distinct.values()), None)


def _capital(layer: Recurrent) -> str:
    text = str(layer)
    return text[0].upper() + text[1:]
