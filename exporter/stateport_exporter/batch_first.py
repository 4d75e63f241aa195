# SPDX-License-Identifier: Apache-2.0
"""A copy of a model's file in which the batch is the first axis of every input and output.

Servers that batch requests join them along the first axis, while PyTorch's states have the batch
second. The graph itself stays as it is, between transpositions.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from stateport import ArraySpec, Contract, StateSpec
from stateport.contract import INITIAL_PREFIX
from stateport.model_file.onnx_outline import read
from stateport.model_file.read_contract import read_contract

from . import __version__
from .graph.free_names import free_name
from .graph.serialization import save
from .graph.transposes import all_graphs
from .states.naming import set_contract

_Spec = TypeVar("_Spec", ArraySpec, StateSpec)


def write_batch_first(source: Path, path: Path) -> None:
    """Writes the copy. It has no vectors: its arrays are shaped otherwise than those recorded.

    Args:
        source: a model file with a contract.
        path: the file to write. Weights beyond 2 GB are written beside it.

    Raises:
        FileError: a file cannot be read or written.
        ContractError: the file has no contract.
        ExportError: the copy is not valid ONNX.
    """
    contract = read_contract(read(source))
    model = ir.load(source)
    ir.external_data.load_to_model(model)
    names = _names_in(model)

    for spec in (*contract.inputs, *contract.state_inputs):
        _turn_input(model.graph, spec, names)
    for spec in (*contract.outputs, *contract.state_outputs):
        _turn_output(model.graph, spec, names)
    for state in contract.states:
        _turn_initial(model.graph, state)

    set_contract(
        model, _turned_contract(contract), {"batch_first": source.name, "stateport": __version__}
    )
    save(model, path)


def _names_in(model: ir.Model) -> set[str]:
    """The names of all values."""
    names: set[str] = set()
    for graph in all_graphs(model):
        names |= {value.name or "" for value in (*graph.inputs, *graph.initializers.values())}
        names |= {value.name or "" for node in graph for value in node.outputs}
    return names


def _axis_of(spec: ArraySpec | StateSpec) -> int:
    """The batch axis; 0 where there is none, because nothing is to be done then."""
    return spec.shape.index("batch") if "batch" in spec.shape else 0


def _turn_input(graph: ir.Graph, spec: ArraySpec, names: set[str]) -> None:
    """Lets an input have the batch first; a transposition gives the graph what it had."""
    axis = _axis_of(spec)
    if axis == 0:
        return

    [position] = [i for i, value in enumerate(graph.inputs) if value.name == spec.name]
    old = graph.inputs[position]
    new = ir.Value(name=spec.name, shape=_turned_shape(old, axis), type=old.type)
    back = [*range(1, axis + 1), 0, *range(axis + 1, len(spec.shape))]
    node = ir.node("Transpose", [new], {"perm": back})
    node.outputs[0].name = _inner_name(spec.name, names)
    node.outputs[0].shape, node.outputs[0].type = old.shape, old.type

    ir.convenience.replace_all_uses_with(old, node.outputs[0])
    graph.inputs[position] = new
    first = graph[0] if len(graph) else None
    if first is None:
        graph.append(node)
    else:
        graph.insert_before(first, node)


def _turn_output(graph: ir.Graph, spec: ArraySpec, names: set[str]) -> None:
    """Gives out an output with the batch first."""
    axis = _axis_of(spec)
    if axis == 0:
        return

    [position] = [i for i, value in enumerate(graph.outputs) if value.name == spec.name]
    old = graph.outputs[position]
    order = [axis, *(i for i in range(len(spec.shape)) if i != axis)]
    node = ir.node("Transpose", [old], {"perm": order})
    new = node.outputs[0]
    new.shape, new.type = _turned_shape(old, axis), old.type

    old.name = _inner_name(spec.name, names)
    new.name = spec.name
    graph.outputs[position] = new
    graph.append(node)


def _inner_name(name: str, names: set[str]) -> str:
    inner = free_name(f"{name}.as_exported", names, ".")
    names.add(inner)
    return inner


def _turned_shape(value: ir.Value, axis: int) -> ir.Shape | None:
    if value.shape is None:
        return None
    dims = list(value.shape)
    return ir.Shape([dims[axis], *dims[:axis], *dims[axis + 1 :]])


def _turn_initial(graph: ir.Graph, spec: StateSpec) -> None:
    """Turns the first value of a state, if the file has one."""
    name = f"{INITIAL_PREFIX}{spec.input}"
    if spec.initial != "file" or _axis_of(spec) == 0:
        return

    value = graph.initializers[name]
    assert value.const_value is not None  # an initializer has its values
    array = np.ascontiguousarray(np.moveaxis(value.const_value.numpy(), _axis_of(spec), 0))
    value.const_value = ir.tensor(array, name=name)
    value.shape = ir.Shape(array.shape)


def _turned_contract(contract: Contract) -> Contract:
    return replace(
        contract,
        inputs=tuple(map(_turned, contract.inputs)),
        outputs=tuple(map(_turned, contract.outputs)),
        states=tuple(map(_turned, contract.states)),
    )


def _turned(spec: _Spec) -> _Spec:
    place: int = _axis_of(spec)
    shape = (spec.shape[place], *spec.shape[:place], *spec.shape[place + 1 :])
    return replace(spec, shape=shape) if place else spec
