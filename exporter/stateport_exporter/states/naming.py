# SPDX-License-Identifier: Apache-2.0
"""Names, order and the contract: the last changes before the file is written."""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from stateport.axes import without_brackets
from stateport.contract import (
    CONTRACT_KEY,
    INITIAL_PREFIX,
    ORIGIN_KEY,
    ArraySpec,
    Contract,
    StateSpec,
    Streaming,
)
from stateport.picking import without

from ..capture.capture import Captured
from ..errors import ExportError
from ..graph.dataflow import dtype_of, shape_of
from .axis_remainders import without_remainders
from .layer_states import StatePair
from .names import Path


def stamp(
    graph: ir.Graph, captured: Captured, states: Sequence[StatePair]
) -> tuple[list[str], list[str]]:
    """Gives the graph's inputs and outputs their names, and returns them.

    A name that the author gave is kept: an argument of forward, a key of a returned dict. The
    others are x, h0, c0 -> y, hn, cn. States sort into the same order by their inputs' names as by
    their outputs' names, which Triton relies on.

    Raises:
        ExportError: two inputs or outputs would have the same name.
    """
    _give_every_output_a_value(graph)

    inputs = _input_names(captured.input_paths, states)
    outputs = _output_names(graph, captured.output_paths, states, inputs)
    _check_distinct(
        [
            *_described_inputs(inputs, captured.input_paths),
            *_described_outputs(outputs, captured.output_paths, states, inputs),
        ]
    )
    _rename(graph, [*graph.inputs, *graph.outputs], [*inputs, *outputs])
    for value in (*graph.inputs, *graph.outputs):
        _simplify_axes(value)
    return inputs, outputs


def store_initial(graph: ir.Graph, initial: Mapping[str, NDArray[Any]]) -> None:
    """Stores the first values of states that do not start from zeros, as initializers."""
    for name, array in initial.items():
        key = f"{INITIAL_PREFIX}{name}"
        value = ir.Value(name=key, const_value=ir.tensor(array, name=key))
        graph.register_initializer(value)


def contract_from_graph(
    graph: ir.Graph,
    states: Iterable[StatePair],
    whole_only: str | None,
    initial: Container[str],
    lengths: Container[ir.Value] = (),
) -> Contract:
    """The contract of a graph that `stamp` named.

    Args:
        graph: the graph.
        states: its states.
        whole_only: why it cannot stream, in words; None if it may.
        initial: the inputs of states whose first values are in the file.
        lengths: the inputs that hold the lengths of rows along time.
    """
    next_values = {graph.inputs[state.input]: graph.outputs[state.output] for state in states}
    is_state = {*next_values, *next_values.values()}

    inputs = []
    for value in graph.inputs:
        if value not in is_state:
            lengths_of = "time" if value in lengths else None
            inputs.append(replace(_array_spec(value), lengths_of=lengths_of))

    outputs = []
    for value in graph.outputs:
        if value not in is_state:
            outputs.append(_array_spec(value))

    specs = []
    for value in graph.inputs:
        if value in next_values:
            specs.append(_state_spec(value, next_values[value], initial))

    streaming = Streaming(whole_only is None, whole_only)
    return Contract(tuple(inputs), tuple(outputs), tuple(specs), streaming)


def write_metadata(model: ir.Model, contract: Contract, origin: Mapping[str, object]) -> None:
    """Puts the contract and the file's origin into the model, and takes everything local out.

    PyTorch's exporter notes stack traces with paths of this machine on every node; they would also
    make the same input give different bytes elsewhere.
    """
    for graph in model.graphs():
        _clear_metadata(graph)
    model.metadata_props.clear()

    model.producer_name = "stateport"
    model.producer_version = str(origin["stateport"])
    set_contract(model, contract, origin)


def set_contract(model: ir.Model, contract: Contract, origin: Mapping[str, object]) -> None:
    """Puts the contract and the file's origin into the model's metadata."""
    model.metadata_props[ORIGIN_KEY] = json.dumps(dict(origin))
    model.metadata_props[CONTRACT_KEY] = contract.to_json()


def _clear_metadata(graph: ir.Graph) -> None:
    graph.metadata_props.clear()
    for value in graph.inputs:
        value.metadata_props.clear()

    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


def _input_names(paths: Sequence[Path], states: Iterable[StatePair]) -> list[str]:
    """The names of the arguments; "state_" comes before one that is taken."""
    roles = {state.input: state.name for state in states}
    names: list[str] = []
    for position, path in enumerate(paths):
        name = _input_name(path, roles.get(position))
        names.append(f"state_{name}" if name in names else name)
    return names


def _input_name(path: Path, role: str | None) -> str:
    is_in_container = len(path) > 1
    if role is not None and is_in_container:  # its position in a tuple says less than its role
        return role
    return "_".join(path)


def _output_names(
    graph: ir.Graph, paths: Sequence[Path], states: Sequence[StatePair], inputs: Sequence[str]
) -> list[str]:
    """The names of all outputs, of which the author's are the first."""
    count = len(graph.outputs)
    author_names = _author_names(paths)
    author_names += [""] * (count - len(paths))
    names = _state_output_names(states, inputs, author_names)

    plain = without(range(count), names)

    for number, position in enumerate(plain, start=1):
        usual = output_name(number, len(plain))
        if usual in inputs:  # a decoder's y is the step before
            usual = usual.replace("y", "output")
        names[position] = author_names[position] or usual
    return [names[position] for position in range(count)]


def _state_output_names(
    states: Sequence[StatePair], inputs: Sequence[str], author_names: Sequence[str]
) -> dict[int, str]:
    """The names of the outputs that give states, by position."""
    state_inputs = [inputs[state.input] for state in states]
    state_outputs = [author_names[state.output] for state in states]
    names = _next_names(state_inputs, state_outputs, inputs)

    positions = (state.output for state in states)
    return dict(zip(positions, names, strict=True))


def _author_names(paths: Sequence[Path]) -> list[str]:
    """The author's names of results; items of one list or tuple are numbered: state_0, state_1."""
    short = [_author_name(path) for path in paths]

    names = []
    for path, name in zip(paths, short, strict=True):
        is_item = short.count(name) > 1
        names.append(_author_name(path, numbered=True) if is_item else name)
    return names


def _author_name(path: Path, *, numbered: bool = False) -> str:
    """The keys and fields on the way to a result; empty where there are only positions.

    If `numbered`, with the positions behind the first key.
    """
    keys = [key for key in path if not key.isdigit()]
    if numbered and keys:
        keys = [*path[path.index(keys[0]) :]]
    return "_".join(keys)


def output_name(number: int, count: int) -> str:
    """The usual name of an output: y, or y1 and y2 where there are several."""
    return "y" if count == 1 else f"y{number}"


def next_name(name: str) -> str:
    """The usual name of a state's output: hn for h0, and cache_n for cache."""
    return f"{name[:-1]}n" if name.endswith("0") else f"{name}_n"


def _next_names(
    inputs: Sequence[str], author_names: Sequence[str], taken: Collection[str]
) -> list[str]:
    """The names of the states' outputs, so that they sort into the order of their inputs' names.

    They are the author's names, or h0 -> hn, hidden -> hidden_n. Where those sort otherwise, a
    prefix takes their place.
    """
    names = []
    for name, author_name in zip(inputs, author_names, strict=True):
        usual = next_name(name)
        is_free = author_name != "" and author_name not in taken
        names.append(author_name if is_free else usual)

    in_order_of_inputs = [name for _, name in sorted(zip(inputs, names, strict=True))]
    if in_order_of_inputs == sorted(names):
        return names
    return [f"next_{name}" for name in inputs]


def _give_every_output_a_value(graph: ir.Graph) -> None:
    """Copies an output that is an input, an initializer or another output: names are unique."""
    seen: set[ir.Value] = set(graph.inputs)
    for position, value in enumerate(graph.outputs):
        if value in seen or value.is_initializer():
            copy = ir.node("Identity", [value])
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            graph.append(copy)
            graph.outputs[position] = copy.outputs[0]
        seen.add(graph.outputs[position])


def _described_inputs(names: Sequence[str], paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """The name of each input, and what it is in the network."""
    for name, path in zip(names, paths, strict=True):
        if "_".join(path) == name:
            yield name, f"the argument {'.'.join(path)!r}"
        else:  # it is called by its part in a layer, which says more than its place
            yield name, f"the state {name!r} of a layer"


def _described_outputs(
    names: Sequence[str],
    paths: Sequence[Path],
    states: Iterable[StatePair],
    inputs: Sequence[str],
) -> Iterator[tuple[str, str]]:
    """The name of each output, and what it is in the network."""
    state_inputs = {state.output: inputs[state.input] for state in states}
    for position, name in enumerate(names):
        if position in state_inputs:
            yield name, f"the next value of the state {state_inputs[position]!r}"
        elif position < len(paths) and _author_name(paths[position]):
            yield name, f"the result {'.'.join(paths[position])!r}"
        else:
            yield name, f"result {position + 1}"


def _check_distinct(ports: Iterable[tuple[str, str]]) -> None:
    """Checks that no two inputs and outputs have one name.

    Raises:
        ExportError: with the two, and what to rename.
    """
    seen: dict[str, str] = {}
    for name, what in ports:
        if name in seen:
            raise ExportError(
                f"Two inputs or outputs of the file would both be called {name!r}: {seen[name]}, "
                f"and {what}. Each needs a name of its own. Rename the argument of forward, the "
                "key of the returned dict, or the attribute that holds the layer."
            )
        seen[name] = what


def _rename(graph: ir.Graph, values: Sequence[ir.Value], names: Sequence[str]) -> None:
    """Gives values these names; other values that have one of them get another name."""
    taken = set(names)
    for value in list(_inner_values(graph, set(values))):
        if value.name in taken:
            value.name = f"inner_{value.name}"
    for value, name in zip(values, names, strict=True):
        value.name = name


def _simplify_axes(value: ir.Value) -> None:
    """Writes computed axes in the words of a contract, without brackets around the whole."""
    if value.shape is not None:
        axes = [without_brackets(without_remainders(axis)) for axis in shape_of(value)]
        value.shape = ir.Shape(axes)


def _inner_values(graph: ir.Graph, ports: Container[ir.Value]) -> Iterator[ir.Value]:
    """What nodes compute, without the graph's outputs, and its initializers."""
    for node in graph:
        yield from without(node.outputs, ports)
    yield from graph.initializers.values()


def _array_spec(value: ir.Value) -> ArraySpec:
    return ArraySpec(_name(value), dtype_of(value), shape_of(value))


def _state_spec(value: ir.Value, next_value: ir.Value, initial: Container[str]) -> StateSpec:
    name = _name(value)
    start = "file" if name in initial else "zeros"
    return StateSpec(name, _name(next_value), dtype_of(value), shape_of(value), start)


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name
