# SPDX-License-Identifier: Apache-2.0
"""The states of recurrent layers: found by following the data to and from each layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import onnx_ir as ir

from stateport.picking import among, only, positions_of, present, without

from ..capture.capture import Captured
from ..errors import ExportError
from ..graph.dataflow import (
    MOVES,
    axes,
    behind,
    moved_by,
    origin,
    results_like,
    same_kind,
    targets,
)
from ..graph.free_names import free_name
from ..layers import LOOP, Recurrent
from .names import Path, has_name
from .sequence_axis import capitalized

# Operators by which a network clears a state with a mask: h * (1 - done), where(done, 0, h).
_MASKS: Final = frozenset({"Mul", "Where"})
_LONG_NAMES: Final = {"h": "hidden state", "c": "cell state"}


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


def hidden_states(graph: ir.Graph, layer: Recurrent) -> list[int]:
    """The positions of a layer's first states that depend on no value that the network is given.

    They are absent, zeros, constants or parameters, made inside forward: states to be lifted. A
    layer whose other states are made from the sequence, as a decoder's are, has none.
    """
    positions = []
    for position, (_, first, _) in enumerate(layer.states):
        if not [*_dependencies(graph, first)]:
            positions.append(position)
        elif not _held_inputs(graph, first):
            return []
    return positions


def reads_arguments(graph: ir.Graph, layer: Recurrent) -> bool:
    """Whether a layer depends on values that the network is given.

    One that does not, as a layer over learned tokens, computes the same in every call. A loop that
    is as long as the sequence depends on how many steps it is given, and goes on in the next call.
    """
    names = axes(layer.x)
    if layer.node.op_type == LOOP and names and "time" in names[layer.time]:
        return True
    return any(any(_dependencies(graph, value)) for value in present(layer.node.inputs))


@dataclass(frozen=True)
class Roles:
    """The states of layers that inputs and outputs carry.

    Attributes:
        inputs: for each input, the roles of the states that it carries: {"h0"}.
        outputs: the same for each output.
        handed_on: the same for outputs of a layer that starts from where another one ended. The
            roles are those of the first of these layers.
        ends: for each input, all results of the layers that start from it.
        stacks: for each layer that starts from inputs, by state: the input, the result that holds
            the state after every step (None where there is none), and the last state.
    """

    inputs: Mapping[ir.Value, set[str]]
    outputs: Mapping[ir.Value, set[str]]
    handed_on: Mapping[ir.Value, set[str]]
    ends: Mapping[ir.Value, list[ir.Value]]
    stacks: list[list[tuple[ir.Value, ir.Value | None, ir.Value]]] = field(default_factory=list)


def roles_of(
    graph: ir.Graph,
    layers: Sequence[Recurrent],
    declared: Collection[ir.Value],
    contexts: Collection[ir.Value] = (),
) -> Roles:
    """Follows the data to and from all layers, but those that start from `declared` inputs alone.

    `contexts` are inputs with former steps of a sequence. A layer that starts from a part of these
    steps starts from what is made in the call.

    Raises:
        ExportError: a layer's first state is computed from an argument.
    """
    roles = Roles(defaultdict(set), defaultdict(set), defaultdict(set), defaultdict(list))
    for layer, prefix in zip(layers, _prefixes(graph, layers), strict=True):
        firsts = _dependencies_of_layer(graph, layer)
        is_declared = bool(firsts) and firsts.issubset(declared)
        if is_declared or _starts_inside(graph, layer, contexts) or _goes_on(layers, layer):
            continue

        stacks = []
        for (letter, first, last), stack in zip(layer.states, layer.stacks, strict=True):
            if not [*_dependencies(graph, first)]:  # made in this call, beside a given one
                continue
            role = f"{prefix}{letter}0"
            source = _only_source(layer, letter, _held_inputs(graph, first))
            roles.inputs[source].add(role)
            roles.ends[source].extend(layer.node.outputs)
            for output in targets(graph, last):
                roles.outputs[output].add(role)
            for output in targets(graph, _handed_on(layers, last)):
                roles.handed_on[output].add(role)
            stacks.append((source, stack, last))
        roles.stacks.append(stacks)
    return roles


def _goes_on(layers: Sequence[Recurrent], layer: Recurrent) -> bool:
    """Whether a layer starts from where others ended, in all of its states."""
    ends = {origin(last) for other in layers if other is not layer for *_, last in other.states}
    return all(_moved_from(first) in ends for _, first, _ in layer.states)


def _handed_on(layers: Sequence[Recurrent], last: ir.Value) -> ir.Value:
    """The last state of the last layer in a row, of which each starts from where another ended."""
    following: dict[ir.Value, ir.Value] = {}
    for layer in layers:
        for _, first, own_last in layer.states:
            following[_moved_from(first)] = own_last

    seen = {last}
    while (later := following.get(origin(last))) is not None and later not in seen:
        seen.add(later)
        last = later
    return last


def _moved_from(value: ir.Value) -> ir.Value:
    """What a value is before it is moved, as to another shape."""
    value = origin(value)
    node = value.producer()
    while node is not None and node.op_type in MOVES:
        operands = present(moved_by(node))
        if len(operands) != 1:
            break
        value = origin(operands[0])
        node = value.producer()
    return value


def pairs_of_layers(
    graph: ir.Graph, captured: Captured, own: int, roles: Roles, declared: Mapping[int, int | None]
) -> list[StatePair]:
    """The states of recurrent layers: of the first `own` inputs, and of those that are lifted.

    Raises:
        ExportError: several results may give the next value of an argument.
    """
    following = _followed(graph, captured, own, roles, declared)

    paired = {graph.inputs[position] for position in following}
    returned = _returned_whole(graph, roles, paired, len(captured.output_paths))
    for position, result in returned.items():
        if position < own and position not in declared:
            following[position] = result

    pairs = []
    for position, result in following.items():
        role = only([*roles.inputs[graph.inputs[position]]])
        pairs.append(StatePair(position, result, role))
    return pairs


def _followed(
    graph: ir.Graph, captured: Captured, own: int, roles: Roles, declared: Mapping[int, int | None]
) -> dict[int, int]:
    """The inputs that layers start from, with the outputs that hold their last states."""
    author = len(captured.output_paths)
    following = {}
    for position, value in enumerate(graph.inputs):
        if value not in roles.inputs or position in declared:
            continue

        alike = without(results_like(graph, value, author), declared.values())
        result: int | None
        if position >= own:
            result = _next_of_lifted(graph, roles, value, alike, captured.output_paths)
        else:
            result = _next_of_argument(graph, roles, value, alike, captured, position)

        if result is not None:
            following[position] = result
    return following


def _returned_whole(
    graph: ir.Graph, roles: Roles, paired: Collection[ir.Value], author: int
) -> dict[int, int]:
    """Arguments whose state is returned after every step, and the last of these among the outputs.

    Behind the author's results are the last states of every layer. The first result is the output
    of the network, which may be the same values.
    """
    following: dict[int, int] = {}
    for stacks in roles.stacks:
        found: dict[int, int] = {}
        for source, stack, last in stacks:
            if source in paired:
                continue
            position = _last_of_stack(graph, source, stack, last, author)
            if position is None:
                found.clear()
                break
            found[graph.inputs.index(source)] = position
        following |= found
    return following


def _last_of_stack(
    graph: ir.Graph, source: ir.Value, stack: ir.Value | None, last: ir.Value, author: int
) -> int | None:
    """The output with the last state, if a result behind the first one holds all states."""
    if stack is None:
        return None
    holding = targets(graph, stack)
    results = graph.outputs[1:author]
    is_returned = any(result in holding and "time" in " ".join(axes(result)) for result in results)
    if not is_returned:
        return None

    for position in range(author, len(graph.outputs)):
        output = graph.outputs[position]
        if origin(output) is origin(last) and same_kind(output, source):
            return position
    return None


def first_state_inputs(graph: ir.Graph, layer: Recurrent) -> list[ir.Value]:
    """The graph's inputs that a layer's first states hold, moved or masked, but not computed."""
    return [value for _, first, _ in layer.states for value in _held_inputs(graph, first)]


def _held_inputs(graph: ir.Graph, value: ir.Value) -> list[ir.Value]:
    """The graph's inputs that a value holds, moved or masked on the way, but not computed."""
    node = value.producer()
    if node is None:
        is_state = value in graph.inputs and "time" not in axes(value)
        return [value] if is_state else []

    sources: dict[ir.Value, None] = {}  # a set that keeps the order
    for operand in _data_operands(node, value):
        sources |= dict.fromkeys(_held_inputs(graph, operand))
    return [*sources]


def _data_operands(node: ir.Node, result: ir.Value) -> list[ir.Value]:
    """The operands that a node moves, or clears with a mask; none where it computes."""
    if node.op_type in _MASKS:
        return _unmasked_operands(node, result)
    if node.op_type not in MOVES:
        return []

    return present(moved_by(node))


def _unmasked_operands(node: ir.Node, result: ir.Value) -> list[ir.Value]:
    """The operands of a mask that have the shape of the result; the mask itself is spread over it.

    The first operand of `Where` is its condition.
    """
    operands = node.inputs[1:] if node.op_type == "Where" else node.inputs

    return [operand for operand in present(operands) if axes(operand) == axes(result)]


def _starts_inside(graph: ir.Graph, layer: Recurrent, contexts: Collection[ir.Value]) -> bool:
    """Whether a layer's first state is made in this call: from its sequences, or from nothing.

    Such a state, a decoder's for example, is no state of the network: nothing is carried from call
    to call.
    """
    if set(first_state_inputs(graph, layer)).difference(contexts):
        return False
    sources = _dependencies_of_layer(graph, layer)
    is_from_sequence = any("time" in axes(value) for value in sources)
    return not sources or is_from_sequence


def _dependencies_of_layer(graph: ir.Graph, layer: Recurrent) -> set[ir.Value]:
    """The graph's inputs on whose values a layer's first states depend."""
    firsts = (first for _, first, _ in layer.states)
    return {value for first in firsts for value in _dependencies(graph, first)}


def _dependencies(graph: ir.Graph, value: ir.Value) -> Iterator[ir.Value]:
    """The graph's inputs on whose values (not only sizes) a value depends."""
    yield from among(behind(value), graph.inputs)


def _prefixes(graph: ir.Graph, layers: Sequence[Recurrent]) -> list[str]:
    """What comes before h0 and c0: nothing, or the layer's path; a repeated one is counted.

    Nothing stands before the states of the only layer that has some and reads an argument.
    """
    stateful = [layer for layer in layers if layer.states and reads_arguments(graph, layer)]
    if len(stateful) <= 1:
        return [""] * len(layers)

    names: list[str] = []
    for layer in layers:
        path = layer.path.replace(".", "_") or layer.kind.lower()
        names.append(free_name(path, names, "_"))
    return [f"{name}_" for name in names]


def _only_source(layer: Recurrent, letter: str, sources: Sequence[ir.Value]) -> ir.Value:
    """The graph's input that a layer's first state comes from, moved or masked, not computed."""
    if len(sources) == 1:
        return sources[0]

    state = _LONG_NAMES.get(letter, "state")
    raise ExportError(
        f"{capitalized(layer)} starts from a {state} that forward computes from its arguments, so "
        "what it would be in the next call is unclear. Pass the state itself, in one tensor: "
        f"{layer.path or 'layer'}(x, state)."
    )


def _next_of_lifted(
    graph: ir.Graph, roles: Roles, value: ir.Value, alike: Sequence[int], results: Sequence[Path]
) -> int:
    """The output that gives the next value of a lifted state.

    It is a result of the author's where forward returns it as PyTorch's layers do, behind the
    output: `return y, state`. A result with a name, or the only one, stays a result, and so does
    one of another shape: `alike` are the author's results with the shape of the state.
    """
    fits = _holding_last_state(graph, roles, value, roles.outputs)

    behind_output = among(without(fits, [0]), alike)
    unnamed = [i for i in behind_output if not has_name(results[i])]
    if len(unnamed) == 1:
        return unnamed[0]

    # Behind the author's results are the last states of every layer.
    return next(i for i in fits if i >= len(results))


def _next_of_argument(
    graph: ir.Graph,
    roles: Roles,
    value: ir.Value,
    alike: Sequence[int],
    captured: Captured,
    position: int,
) -> int | None:
    """The author's result that gives the next value of an argument; None where there is none.

    That is a result that holds the layer's last state, moved, or the last state of a layer that
    goes on from there. If there is none, it is the only result of its shape that is computed from
    what the layer gives: scaled, masked or normalised. `alike` are the results with the shape of
    the argument, which is at `position`.
    """
    path = captured.input_paths[position]
    for carried in (roles.outputs, roles.handed_on):
        holding = among(_holding_last_state(graph, roles, value, carried), alike)
        if holding:
            return _named_alike(holding, path, captured.output_paths)

    candidates = _computed_from_layer(graph, roles, value, alike)
    if len(candidates) > 1:
        name, first = ".".join(path), min(candidates) + 1
        listed = ", ".join(f"result {i + 1}" for i in sorted(candidates))
        raise ExportError(
            f"The argument {name!r} holds a state, and the result that gives the next one is not "
            f"clear: {listed}. Return exactly one of its shape, or declare which one it is: "
            f"states={{{name!r}: {first}}} (on the command line, --state {name}={first})."
        )
    return candidates[0] if candidates else None


def _named_alike(results: Sequence[int], path: Path, paths: Sequence[Path]) -> int:
    """Of results that hold the same state, the one with the argument's name, or else the last.

    `return h, h` gives the output first, and the state behind it.
    """
    for result in results:
        is_named = has_name(paths[result]) and paths[result][-1] == path[-1]
        if is_named and result > 0:
            return result
    return results[-1]


def _holding_last_state(
    graph: ir.Graph, roles: Roles, value: ir.Value, carried: Mapping[ir.Value, set[str]]
) -> list[int]:
    """The outputs that carry the last state of the layer that starts from `value`, moved."""
    own = roles.inputs[value]
    return positions_of(lambda output: carried.get(output) == own, graph.outputs)


def _computed_from_layer(
    graph: ir.Graph, roles: Roles, value: ir.Value, alike: Sequence[int]
) -> list[int]:
    """The results that are computed from what the layer gives that starts from `value`."""
    layer_results = set(roles.ends[value])

    computed = []
    for i in alike:
        output = graph.outputs[i]
        # Another layer's last state is that layer's own, though it is computed from this one.
        is_of_another_layer = roles.outputs.get(output, set()) - roles.inputs[value]
        if not is_of_another_layer and not layer_results.isdisjoint(behind(output)):
            computed.append(i)
    return computed
