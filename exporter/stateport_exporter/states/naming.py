"""Names, order and the contract: the last touch before the file is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from stateport.contract import (
    CONTRACT_KEY,
    INITIAL_PREFIX,
    ORIGIN_KEY,
    ArraySpec,
    Axis,
    Contract,
    StateSpec,
    Streaming,
)

from ..capture.capture import Captured
from ..errors import ExportError
from .layer_states import StatePair

Path = tuple[str, ...]


def stamp(
    graph: ir.Graph, captured: Captured, states: Sequence[StatePair]
) -> tuple[list[str], list[str]]:
    """Gives the graph's inputs and outputs their names, and returns them.

    A name that the author gave is kept: an argument of forward, a key of a returned dict. The
    others are x, h0, c0 -> y, hn, cn. States sort into the same order by their inputs' names as by
    their outputs' names, which Triton relies on.
    """
    _give_every_output_a_value(graph)
    paths = [*captured.output_paths, *[()] * (len(graph.outputs) - len(captured.output_paths))]
    roles = {state.input: state.name for state in states}
    inputs: list[str] = []
    for position, path in enumerate(captured.input_paths):
        name = _input_name(path, roles.get(position))
        inputs.append(f"state_{name}" if name in inputs else name)
    given = [_given_name(paths[state.output]) for state in states]
    next_names = _next_names([inputs[state.input] for state in states], given, inputs)
    named = {state.output: name for state, name in zip(states, next_names, strict=True)}
    plain = [i for i in range(len(paths)) if i not in named]
    outputs = [
        named[i] if i in named else _output_name(path, plain.index(i), len(plain))
        for i, path in enumerate(paths)
    ]
    _rename(graph, [*graph.inputs, *graph.outputs], [*inputs, *outputs])
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
    """The contract of a stamped graph.

    `whole_only` says why it cannot stream, if it cannot; `lengths` are the inputs that hold the
    lengths of rows along time.
    """
    outputs = {graph.inputs[state.input]: graph.outputs[state.output] for state in states}
    taken = {*outputs, *outputs.values()}
    return Contract(
        inputs=tuple(
            replace(_array_spec(value), lengths_of="time" if value in lengths else None)
            for value in graph.inputs
            if value not in taken
        ),
        outputs=tuple(_array_spec(value) for value in graph.outputs if value not in taken),
        states=tuple(
            StateSpec(
                _name(value),
                _name(outputs[value]),
                _dtype(value),
                _shape(value),
                "file" if _name(value) in initial else "zeros",
            )
            for value in graph.inputs
            if value in outputs
        ),
        streaming=Streaming(whole_only is None, whole_only),
    )


def write_metadata(model: ir.Model, contract: Contract, origin: Mapping[str, object]) -> None:
    """Puts the contract and the file's origin into the model, and takes everything local out.

    PyTorch's exporter notes stack traces with paths of this machine on every node; they would also
    make the same input give different bytes elsewhere.
    """
    for graph in model.graphs():
        graph.metadata_props.clear()
        for value in graph.inputs:
            value.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
    model.metadata_props.clear()
    model.producer_name = "stateport"
    model.producer_version = str(origin["stateport"])
    model.metadata_props[ORIGIN_KEY] = json.dumps(dict(origin))
    model.metadata_props[CONTRACT_KEY] = contract.to_json()


def _input_name(path: Path, role: str | None) -> str:
    if role is not None and len(path) > 1:  # its place in a tuple says less than its role
        return role
    return "_".join(path)


def _output_name(path: Path, index: int, count: int) -> str:
    return _given_name(path) or ("y" if count == 1 else f"y{index + 1}")


def _given_name(path: Path) -> str:
    """The keys and fields on the way to a result; empty where there are only positions."""
    return "_".join(key for key in path if not key.isdigit())


def _next_names(inputs: Sequence[str], given: Sequence[str], taken: Sequence[str]) -> list[str]:
    """The author's names, or h0 -> hn, hidden -> hidden_n; a prefix where that sorts otherwise."""
    usual = [f"{n[:-1]}n" if n.endswith("0") else f"{n}_n" for n in inputs]
    names = [g if g and g not in taken else u for g, u in zip(given, usual, strict=True)]
    if [n for _, n in sorted(zip(inputs, names, strict=True))] != sorted(names):
        names = [f"next_{n}" for n in inputs]
    return names


def _give_every_output_a_value(graph: ir.Graph) -> None:
    """An output that is an input, or stands twice, gets a value of its own: names are unique."""
    seen: set[ir.Value] = set(graph.inputs)
    for position, value in enumerate(graph.outputs):
        if value in seen or value.is_initializer():
            node = ir.node("Identity", [value])
            node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
            graph.append(node)
            graph.outputs[position] = node.outputs[0]
        seen.add(graph.outputs[position])


def _rename(graph: ir.Graph, values: Sequence[ir.Value], names: Sequence[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise ExportError(
                f"Two inputs or outputs would both be called {name!r}. Name the arguments of "
                "forward differently, or return a dict with other keys."
            )
    wanted = set(names)
    inner = [v for node in graph for v in node.outputs if v not in set(values)]
    for value in [*inner, *graph.initializers.values()]:
        if value.name in wanted:
            value.name = f"inner_{value.name}"
    for value, name in zip(values, names, strict=True):
        value.name = name


def _array_spec(value: ir.Value) -> ArraySpec:
    return ArraySpec(_name(value), _dtype(value), _shape(value))


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name


def _dtype(value: ir.Value) -> str:
    assert value.dtype is not None
    return value.dtype.numpy().name


def _shape(value: ir.Value) -> tuple[Axis, ...]:
    return tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape or ())
