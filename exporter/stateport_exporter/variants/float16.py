# SPDX-License-Identifier: Apache-2.0
"""A graph in float16: its weights, its values, and those inputs and outputs that are not kept."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from stateport import Contract
from stateport.contract import INITIAL_PREFIX

from ..errors import ExportError
from ..graph.inferred_shapes import infer_shapes
from ..graph.transposes import all_graphs

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_LARGEST: Final = float(np.finfo(np.float16).max)
#: Operators that give float32 unless they are told otherwise.
_WINDOWS: Final = ("HannWindow", "HammingWindow", "BlackmanWindow")


def port_names(contract: Contract, kinds: Collection[str]) -> set[str]:
    """The names of the inputs and outputs of these kinds, which are some of `dtypes.KINDS`."""
    specs = {
        "inputs": contract.inputs,
        "outputs": contract.outputs,
        "states": (*contract.state_inputs, *contract.state_outputs),
    }

    names = set()
    for kind in kinds:
        for spec in specs[kind]:
            names.add(spec.name)
    return names


def float16_contract(contract: Contract, keep_float32: Container[str]) -> Contract:
    """The contract of a graph that `to_float16` made."""

    def halved(dtype: str, name: str) -> str:
        if dtype == "float32" and name not in keep_float32:
            return "float16"
        return dtype

    inputs = [replace(spec, dtype=halved(spec.dtype, spec.name)) for spec in contract.inputs]
    outputs = [replace(spec, dtype=halved(spec.dtype, spec.name)) for spec in contract.outputs]
    states = [replace(spec, dtype=halved(spec.dtype, spec.input)) for spec in contract.states]
    return replace(contract, inputs=tuple(inputs), outputs=tuple(outputs), states=tuple(states))


def to_float16(model: ir.Model, keep_float32: Container[str]) -> None:
    """Turns all of a graph's float32 into float16, in place.

    Inputs and outputs named in `keep_float32` stay float32, with a `Cast` after or before them.
    Operators that ONNX does not have in float16 stay in float32, between casts.

    Raises:
        ExportError: weights are too large for float16, or an operator is not ONNX's own.
    """
    LiftConstantsToInitializersPass(lift_all_constants=True)(model)
    infer_shapes(model)
    graphs = list(all_graphs(model))
    nodes = [node for graph in graphs for node in graph]

    float32_values: set[ir.Value] = set()
    for node in nodes:
        float32_values |= _keep_in_float32(node, model.opset_imports[""])
    float32_values |= _keep_ports(model.graph, keep_float32)
    float32_values |= _initial_values(model.graph, keep_float32)

    for node in nodes:
        _halve_attributes(node)
    for graph in graphs:
        for value in _all_values(graph):
            if value not in float32_values:
                _halve(value)


def _keep_ports(graph: ir.Graph, keep_float32: Container[str]) -> set[ir.Value]:
    """Puts casts at the inputs and outputs that stay float32, and returns these."""
    inputs = []
    for value in graph.inputs:
        if _stays_float32(value, keep_float32):
            inputs.append(value)

    for value in inputs:
        _halve_uses(graph, value)

    # Only now: an input that is an output too has become the result of its cast.
    outputs = []
    for value in graph.outputs:
        if _stays_float32(value, keep_float32):
            outputs.append(value)

    return {*inputs, *(_append_float32_output(graph, value) for value in outputs)}


def _stays_float32(port: ir.Value, keep_float32: Container[str]) -> bool:
    return port.name in keep_float32 and port.dtype == _FLOAT


def _initial_values(graph: ir.Graph, keep_float32: Container[str]) -> set[ir.Value]:
    """The stored first values of states that stay float32."""
    values = set()
    for name, value in graph.initializers.items():
        state = name.removeprefix(INITIAL_PREFIX)
        if name.startswith(INITIAL_PREFIX) and state in keep_float32:
            values.add(value)
    return values


def _all_values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _halve(value: ir.Value) -> None:
    if value.const_value is not None and value.const_value.dtype == _FLOAT:
        array = _rounded(value.const_value.numpy(), value.name or "")
        value.const_value = ir.tensor(array, name=value.name)
    if value.dtype == _FLOAT:
        value.dtype = _HALF


def _rounded(array: NDArray[Any], name: str) -> NDArray[Any]:
    """An array in float16.

    A single number beyond the range of float16 is a bound or a mask; infinity does as well.

    Raises:
        ExportError: several numbers, which are weights, do not fit.
    """
    largest = np.abs(array[np.isfinite(array)]).max(initial=0.0)
    if array.size > 1 and largest > _LARGEST:
        raise ExportError(
            f"The weights {name!r} reach {largest:g}, and float16 ends at {_LARGEST:g}. "
            "Export the network in float32."
        )

    with np.errstate(over="ignore"):
        return array.astype(np.float16)


def _halve_attributes(node: ir.Node) -> None:
    """Halves the dtype that an operator gives, and the value that it fills a tensor with."""
    _write_defaults(node)
    for name in ("to", "dtype", "output_datatype"):
        if name in node.attributes and node.attributes[name].as_int() == _FLOAT:
            node.attributes[name] = ir.AttrInt64(name, int(_HALF))

    fill = node.attributes.get("value")
    if fill is not None and fill.as_tensor().dtype == _FLOAT:
        array = fill.as_tensor().numpy().astype(np.float16)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))


def _write_defaults(node: ir.Node) -> None:
    """Writes the attributes that are float32 where they are left out."""
    if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
        zero = ir.tensor(np.zeros(1, np.float32))
        node.attributes["value"] = ir.AttrTensor("value", zero)
    if node.op_type in _WINDOWS and "output_datatype" not in node.attributes:
        node.attributes["output_datatype"] = ir.AttrInt64("output_datatype", int(_FLOAT))


def _keep_in_float32(node: ir.Node, opset: int) -> set[ir.Value]:
    """Puts casts around an operator that ONNX does not have in float16.

    Returns the values that are float32 then: its operands after the casts, and its results.

    Raises:
        ExportError: the operator is not ONNX's own.
    """
    if node.domain not in ("", "ai.onnx"):
        raise ExportError(f"The operator {node.domain}::{node.op_type} has no float16 form.")

    schema = onnx.defs.get_schema(node.op_type, opset, "")

    allowed = {}
    for constraint in schema.type_constraints:
        allowed[constraint.type_param_str] = constraint.allowed_type_strs

    values: set[ir.Value] = set()
    for position, value in enumerate(node.inputs):
        if value is not None and _needs_float32(value, position, schema.inputs, allowed):
            cast = _cast(value, _FLOAT)
            node.prepend(cast)
            node.replace_input_with(position, cast.outputs[0])
            values.add(cast.outputs[0])

    for position, value in enumerate(node.outputs):
        if _needs_float32(value, position, schema.outputs, allowed):
            node.append(_cast_for_users(value, _HALF))
            values.add(value)
    return values


def _needs_float32(
    value: ir.Value, position: int, formal: Sequence[Any], allowed: Mapping[str, Sequence[str]]
) -> bool:
    """Whether a float32 value may not be float16 as the operand or result at a position.

    `formal` are the operands, or the results, in the operator's schema; `allowed` are the types
    that each of the schema's type parameters may be.
    """
    if value.dtype != _FLOAT:
        return False
    kind = formal[min(position, len(formal) - 1)].type_str  # the last one may take several values
    return "tensor(float16)" not in allowed.get(kind, [kind])


def _halve_uses(graph: ir.Graph, value: ir.Value) -> None:
    """Casts an input that stays float32 to float16 for those that use it."""
    graph.insert_before(graph[0], _cast_for_users(value, _HALF))


def _append_float32_output(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Puts a float32 output of the same name in place of a float16 one, and returns it."""
    cast = _cast(value, _FLOAT)
    output = cast.outputs[0]
    output.name, value.name = value.name, f"{value.name}.float16"
    graph.append(cast)
    graph.outputs[graph.outputs.index(value)] = output
    return output


def _cast_for_users(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    """A cast whose result takes the place of a value wherever it is used."""
    cast = _cast(value, dtype)
    ir.convenience.replace_all_uses_with(value, cast.outputs[0], replace_graph_outputs=True)
    cast.replace_input_with(0, value)
    return cast


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(dtype)})
    node.outputs[0].shape, node.outputs[0].dtype = value.shape, dtype
    return node
