"""A graph in float16: its weights, its values, and as many of its inputs and outputs as wanted."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import LiftConstantsToInitializersPass, ShapeInferencePass

from stateport import Contract
from stateport.contract import INITIAL_PREFIX

from ..errors import ExportError
from ..graph.transposes import all_graphs

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_LARGEST: Final = float(np.finfo(np.float16).max)


def port_names(contract: Contract, kinds: Collection[str]) -> set[str]:
    """The names of the inputs and outputs that these kinds, some of `dtypes.KINDS`, stand for."""
    specs = {
        "inputs": contract.inputs,
        "outputs": contract.outputs,
        "states": (*contract.state_inputs, *contract.state_outputs),
    }
    return {spec.name for kind in kinds for spec in specs[kind]}


def float16_contract(contract: Contract, keep_float32: Container[str]) -> Contract:
    """The contract of a graph that `to_float16` made."""

    def dtype(name: str, now: str) -> str:
        return "float16" if now == "float32" and name not in keep_float32 else now

    return replace(
        contract,
        inputs=tuple(replace(s, dtype=dtype(s.name, s.dtype)) for s in contract.inputs),
        outputs=tuple(replace(s, dtype=dtype(s.name, s.dtype)) for s in contract.outputs),
        states=tuple(replace(s, dtype=dtype(s.input, s.dtype)) for s in contract.states),
    )


def to_float16(model: ir.Model, keep_float32: Container[str]) -> None:
    """Turns all of a graph's float32 into float16, in place.

    Inputs and outputs named in `keep_float32` stay float32, with a `Cast` behind or before them.
    Operators that ONNX does not have in float16 stay in float32, between casts.

    Raises:
        ExportError: weights are too large for float16, or an operator is not ONNX's own.
    """
    LiftConstantsToInitializersPass(lift_all_constants=True)(model)
    ShapeInferencePass()(model)
    graphs = list(all_graphs(model))
    nodes = [node for graph in graphs for node in graph]
    # What is float32 afterwards: these values, and what these casts say.
    stays: set[ir.Value] = set()
    for node in nodes:
        stays |= _in_float32(node, model.opset_imports[""])
    for value in [v for v in model.graph.inputs if v.name in keep_float32 and v.dtype == _FLOAT]:
        stays.add(_from_float32(model.graph, value))
    for value in [v for v in model.graph.outputs if v.name in keep_float32 and v.dtype == _FLOAT]:
        stays.add(_to_float32(model.graph, value))
    for name, value in model.graph.initializers.items():
        if name.startswith(INITIAL_PREFIX) and name.removeprefix(INITIAL_PREFIX) in keep_float32:
            stays.add(value)
    for node in nodes:
        _halve_attributes(node)
    for graph in graphs:
        made = (value for node in graph for value in node.outputs)
        for value in (*graph.inputs, *graph.initializers.values(), *made):
            if value not in stays:
                _halve(value)


def _halve(value: ir.Value) -> None:
    if value.const_value is not None and value.const_value.dtype == _FLOAT:
        array = _rounded(value.const_value.numpy(), value.name or "")
        value.const_value = ir.tensor(array, name=value.name)
    if value.dtype == _FLOAT:
        value.dtype = _HALF


def _rounded(array: NDArray[Any], name: str) -> NDArray[Any]:
    """In float16. Single numbers beyond its range are bounds and masks: infinity does as well."""
    largest = np.abs(array[np.isfinite(array)]).max(initial=0.0)
    if array.size > 1 and largest > _LARGEST:
        raise ExportError(
            f"The weights {name!r} reach {largest:g}, and float16 ends at {_LARGEST:g}. "
            "Export the network in float32."
        )
    with np.errstate(over="ignore"):
        return array.astype(np.float16)


def _halve_attributes(node: ir.Node) -> None:
    """What an operator is told to give: the type of a cast, the value that fills a tensor."""
    for name in ("to", "dtype"):
        if name in node.attributes and node.attributes[name].as_int() == _FLOAT:
            node.attributes[name] = ir.AttrInt64(name, int(_HALF))
    fill = node.attributes.get("value")
    if fill is not None and fill.as_tensor().dtype == _FLOAT:
        array = fill.as_tensor().numpy().astype(np.float16)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))


def _in_float32(node: ir.Node, opset: int) -> set[ir.Value]:
    """Puts casts around an operator that ONNX does not have in float16; what is float32 then."""
    if node.domain not in ("", "ai.onnx"):
        raise ExportError(f"The operator {node.domain}::{node.op_type} has no float16 form.")
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    kinds = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}

    def refused(value: ir.Value | None, formal: Sequence[Any], position: int) -> bool:
        if value is None or value.dtype != _FLOAT:
            return False
        kind = formal[min(position, len(formal) - 1)].type_str  # the last one may be for several
        return "tensor(float16)" not in kinds.get(kind, [kind])

    stays: set[ir.Value] = set()
    for position, value in enumerate(node.inputs):
        if value is not None and refused(value, schema.inputs, position):
            cast = _cast(value, _FLOAT)
            node.prepend(cast)
            node.replace_input_with(position, cast.outputs[0])
            stays.add(cast.outputs[0])
    for position, value in enumerate(node.outputs):
        if refused(value, schema.outputs, position):
            node.append(_instead(value, _HALF))
            stays.add(value)
    return stays


def _from_float32(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Whoever uses this input gets it in float16; it is float32 itself."""
    graph.insert_before(graph[0], _instead(value, _HALF))
    return value


def _to_float32(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """An output in float32 in place of one in float16, of the same name."""
    cast = _cast(value, _FLOAT)
    single = cast.outputs[0]
    single.name, value.name = value.name, f"{value.name}.float16"
    graph.append(cast)
    graph.outputs[graph.outputs.index(value)] = single
    return single


def _instead(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    """A cast that gives whoever used the value another dtype in its place."""
    cast = _cast(value, dtype)
    ir.convenience.replace_all_uses_with(value, cast.outputs[0], replace_graph_outputs=True)
    cast.replace_input_with(0, value)
    return cast


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(dtype)})
    node.outputs[0].shape, node.outputs[0].dtype = value.shape, dtype
    return node
