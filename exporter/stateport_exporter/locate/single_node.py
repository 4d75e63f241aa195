"""One node as a model of its own, with vectors: the smallest file that shows what went wrong."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper

from stateport.contract import CONTRACT_KEY, DTYPES, ArraySpec, Contract, Streaming
from stateport.files.writing import written_together
from stateport.parity.pair import digest
from stateport.parity.vectors import Case, Vectors, vectors_path

Array = NDArray[Any]


def write_node(
    model: ModelProto,
    node: NodeProto,
    given: Mapping[str, Array],
    truth: Mapping[str, Array],
    floor: Mapping[str, float],
    answers: Mapping[str, Array],
    path: Path,
) -> bool:
    """Writes a node alone, what it is given, and what it should answer.

    Args:
        model: the model that the node is part of.
        node: the node.
        given: the values in the graph, by name.
        truth: what each of the node's outputs should be.
        floor: what rounding to float32 alone costs, by output.
        answers: what came instead; kept beside the vectors, as `came/NAME`.
        path: the ONNX file; vectors are written beside it.

    Returns:
        Whether the node can stand alone: all that it takes and gives is known, and of dtypes that
        a contract can have.
    """
    constants = [i for i in model.graph.initializer if i.name in {*_taken(node)}]
    named = {i.name for i in constants}
    inputs = list(dict.fromkeys(name for name in _taken(node) if name not in named))
    outputs = [name for name in node.output if name in truth]
    if not outputs or not all(name in given for name in inputs):
        return False
    arrays = [*(given[name] for name in inputs), *(answers[name] for name in outputs)]
    if any(array.dtype.name not in DTYPES for array in arrays):
        return False
    contract = Contract(
        inputs=tuple(_spec(name, given[name]) for name in inputs),
        outputs=tuple(_spec(name, answers[name]) for name in outputs),
        streaming=Streaming(ok=False, reason="it is one node of a network"),
    )
    vectors = _vectors(contract, given, truth, floor)
    alone = _model(model, node, constants, contract)
    with written_together(path) as folder:
        onnx.save(alone, folder / path.name)
        place = folder / vectors_path(path).name
        replace(vectors, models=(digest(folder / path.name),)).save(place)
        _add(place, {f"came/{name}": answers[name] for name in outputs})
    return True


def _taken(node: NodeProto) -> Iterator[str]:
    """The values that a node takes, and those that its graphs take from around it."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield from _free(attribute.g)


def _free(graph: GraphProto) -> Iterator[str]:
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        yield from (name for name in _taken(node) if name not in own)
    yield from (value.name for value in graph.output if value.name not in own)


def _spec(name: str, array: Array) -> ArraySpec:
    return ArraySpec(name, array.dtype.name, array.shape)


def _model(
    model: ModelProto, node: NodeProto, constants: list[onnx.TensorProto], contract: Contract
) -> ModelProto:
    def values(specs: tuple[ArraySpec, ...]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(
                spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape
            )
            for spec in specs
        ]

    graph = helper.make_graph(
        [node], "node", values(contract.inputs), values(contract.outputs), constants
    )
    alone = helper.make_model(
        graph, ir_version=model.ir_version, opset_imports=[*model.opset_import]
    )
    helper.set_model_props(alone, {CONTRACT_KEY: contract.to_json()})
    return alone


def _vectors(
    contract: Contract,
    given: Mapping[str, Array],
    truth: Mapping[str, Array],
    floor: Mapping[str, float],
) -> Vectors:
    case = Case(
        name="the node alone",
        through="model",
        sizes={},
        chunks=(1,),
        inputs={spec.name: given[spec.name][None] for spec in contract.inputs},
        initial={},
        truth={spec.name: truth[spec.name].reshape(1, -1) for spec in contract.outputs},
    )
    floors = {spec.name: np.array([floor[spec.name]]) for spec in contract.outputs}
    made = {"machine": platform.machine(), "from": "stateport verify --locate"}
    return Vectors(contract, "float64", floors, (case,), made)


def _add(path: Path, arrays: Mapping[str, Array]) -> None:
    """Adds arrays to a safetensors file and keeps its metadata."""
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    whole = {**safetensors.numpy.load_file(path), **arrays}
    whole = {name: np.array(array, order="C") for name, array in whole.items()}
    path.write_bytes(safetensors.numpy.save(whole, metadata))
