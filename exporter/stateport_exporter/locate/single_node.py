# SPDX-License-Identifier: Apache-2.0
"""One node as a model with vectors: the smallest file that shows the fault."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from stateport.contract import CONTRACT_KEY, DTYPES, ArraySpec, Contract, Streaming
from stateport.files.writing import written_together
from stateport.parity.pair import digest
from stateport.parity.vectors import Case, Vectors, vectors_path
from stateport.picking import among, without

Array = NDArray[Any]


def write_node(
    model: ModelProto,
    node: NodeProto,
    operands: Mapping[str, Array],
    truth: Mapping[str, Array],
    floor: Mapping[str, float],
    answers: Mapping[str, Array],
    path: Path,
) -> bool:
    """Writes a node as a model, with what it takes and what it should give.

    Args:
        model: the model that the node is part of.
        node: the node.
        operands: the values of the graph, by name.
        truth: what each of the node's outputs should be.
        floor: what rounding to float32 alone costs, by output.
        answers: what each output was instead; it is stored in the vectors' file as `came/NAME`.
        path: the ONNX file to write. The vectors are written beside it.

    Returns:
        Whether the node was written. It is not if an operand is unknown, if no truth is known, or
        if one of these arrays has a dtype that a contract cannot have.
    """
    constants = _constants_of(model, node)
    inputs = _input_names(node, constants)
    outputs = among(node.output, truth)
    has_all_inputs = all(name in operands for name in inputs)
    if not outputs or not has_all_inputs:
        return False

    input_arrays = {name: operands[name] for name in inputs}
    output_arrays = {name: answers[name] for name in outputs}
    if not _have_contract_dtypes([*input_arrays.values(), *output_arrays.values()]):
        return False

    contract = Contract(
        inputs=_specs_of(input_arrays),
        outputs=_specs_of(output_arrays),
        streaming=Streaming(ok=False, reason="it is one node of a network"),
    )
    vectors = _vectors_of(contract, operands, truth, floor)
    node_model = _model_of(model, node, constants, contract)

    with written_together(path) as folder:
        draft = folder / path.name
        onnx.save(node_model, draft)
        draft_vectors = folder / vectors_path(path).name
        replace(vectors, models=(digest(draft),)).save(draft_vectors)
        came = {f"came/{name}": array for name, array in output_arrays.items()}
        _add_arrays(draft_vectors, came)
    return True


def _constants_of(model: ModelProto, node: NodeProto) -> list[TensorProto]:
    """The model's constants that a node takes."""
    used = set(_used_names(node))
    return [tensor for tensor in model.graph.initializer if tensor.name in used]


def _input_names(node: NodeProto, constants: Sequence[TensorProto]) -> list[str]:
    """The values that a node takes, each once, without constants."""
    constant_names = {tensor.name for tensor in constants}
    names = dict.fromkeys(_used_names(node))
    return without(names, constant_names)


def _used_names(node: NodeProto) -> Iterator[str]:
    """The values that a node takes, and those that graphs inside of it take from outside."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield from _captured_names(attribute.g)


def _captured_names(graph: GraphProto) -> Iterator[str]:
    """The values that a graph takes from outside."""
    own = {value.name for value in graph.input}
    own |= {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        own.update(node.output)

    for node in graph.node:
        yield from without(_used_names(node), own)
    yield from (value.name for value in graph.output if value.name not in own)


def _have_contract_dtypes(arrays: Sequence[Array]) -> bool:
    return all(array.dtype.name in DTYPES for array in arrays)


def _specs_of(arrays: Mapping[str, Array]) -> tuple[ArraySpec, ...]:
    return tuple(ArraySpec(name, array.dtype.name, array.shape) for name, array in arrays.items())


def _model_of(
    model: ModelProto, node: NodeProto, constants: Sequence[TensorProto], contract: Contract
) -> ModelProto:
    """The node as a model with a contract, with the versions that `model` has."""
    inputs = [*map(_value_info, contract.inputs)]
    outputs = [*map(_value_info, contract.outputs)]
    graph = helper.make_graph([node], "node", inputs, outputs, constants)
    node_model = helper.make_model(
        graph, ir_version=model.ir_version, opset_imports=[*model.opset_import]
    )
    helper.set_model_props(node_model, {CONTRACT_KEY: contract.to_json()})
    return node_model


def _value_info(spec: ArraySpec) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, dtype, spec.shape)


def _vectors_of(
    contract: Contract,
    operands: Mapping[str, Array],
    truth: Mapping[str, Array],
    floor: Mapping[str, float],
) -> Vectors:
    stacked_inputs = {spec.name: operands[spec.name][None] for spec in contract.inputs}
    case = Case(
        name="the node alone",
        through="model",
        sizes={},
        chunks=(1,),
        inputs=stacked_inputs,
        initial={},
        truth={spec.name: truth[spec.name].reshape(1, -1) for spec in contract.outputs},
    )
    floors = {spec.name: np.array([floor[spec.name]]) for spec in contract.outputs}
    made_with = {"machine": platform.machine(), "from": "stateport verify --locate"}
    return Vectors(contract, "float64", floors, (case,), made_with)


def _add_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Adds arrays to a safetensors file, whose metadata stay."""
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()

    all_arrays = {**safetensors.numpy.load_file(path), **arrays}
    contiguous = {name: np.array(array, order="C") for name, array in all_arrays.items()}
    path.write_bytes(safetensors.numpy.save(contiguous, metadata))
