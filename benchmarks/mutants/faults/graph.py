"""Finding and changing parts of a graph that the exporter wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.numpy_helper import from_array, to_array

from stateport import Contract
from stateport.contract import CONTRACT_KEY

Array = NDArray[Any]
Edit = Callable[[Array], Array]

RECURRENT: Final = ("LSTM", "GRU", "RNN", "Scan")


def nodes_of(model: ModelProto, *kinds: str) -> list[NodeProto]:
    """The top-level nodes of these kinds, in order."""
    return [node for node in model.graph.node if node.op_type in kinds]


def recurrent(model: ModelProto) -> list[NodeProto]:
    """The recurrent layers and loops, in order."""
    return nodes_of(model, *RECURRENT)


def layers(model: ModelProto) -> list[NodeProto]:
    """The recurrent layers, without loops, in order."""
    return [node for node in recurrent(model) if node.op_type != "Scan"]


def contract_of(model: ModelProto) -> Contract:
    """The contract in the file."""
    return Contract.from_json(
        next(entry.value for entry in model.metadata_props if entry.key == CONTRACT_KEY)
    )


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """An attribute, None where the operator's default holds."""
    return next((a for a in node.attribute if a.name == name), None)


def set_attribute(node: NodeProto, name: str, value: object) -> None:
    """Sets an attribute, whether or not it is there."""
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def body_of(scan: NodeProto) -> GraphProto:
    """One step of a loop."""
    found = attribute(scan, "body")
    assert found is not None
    return found.g


def operand(node: NodeProto, position: int) -> str:
    """The name of an operand, empty where it is left out."""
    return node.input[position] if position < len(node.input) else ""


def initializer(model: ModelProto, name: str) -> TensorProto | None:
    """The initializer of this name."""
    return next((t for t in model.graph.initializer if t.name == name), None)


def edit_initializer(model: ModelProto, name: str, edit: Edit) -> bool:
    """Edits an initializer; False where there is none, or the edit changes nothing."""
    tensor = initializer(model, name)
    if tensor is None:
        return False
    before = to_array(tensor)
    after = edit(before.copy()).astype(before.dtype)
    if np.array_equal(before, after):
        return False
    tensor.CopyFrom(from_array(np.ascontiguousarray(after), name))
    return True


def constant(model: ModelProto, values: object, dtype: type[np.generic] = np.int64) -> str:
    """Adds an initializer, by default of int64; its name."""
    name = f"fault.constant.{len(model.graph.initializer)}"
    model.graph.initializer.append(from_array(np.array(values, dtype), name))
    return name


def number(model: ModelProto, value: float) -> str:
    """Adds one float32."""
    return constant(model, value, np.float32)


def insert(
    model: ModelProto, kind: str, inputs: list[str], output: str = "", **attributes: Any
) -> NodeProto:
    """Inserts an operator as early as its inputs allow."""
    nodes = model.graph.node
    label = f"fault_{kind}_{len(nodes)}"
    node = helper.make_node(kind, inputs, [output or f"{label}.result"], label, **attributes)
    made = [i for i, other in enumerate(nodes) if set(other.output) & (set(inputs) - {""})]
    nodes.insert(max(made, default=-1) + 1, node)
    return node


def result_of(model: ModelProto, kind: str, inputs: list[str], **attributes: Any) -> str:
    """Inserts an operator; the name of its result."""
    return str(insert(model, kind, inputs, **attributes).output[0])


def detach(model: ModelProto, value: str) -> tuple[str, str]:
    """Splits a value in two names: what its producer makes, and what all that take it will see."""
    other = f"{value}.fault.{len(model.graph.node)}"
    for node in model.graph.node:
        if value in node.output:
            node.output[:] = [other if name == value else name for name in node.output]
            return other, value
    _rename_uses(model.graph, value, other)  # an input of the graph keeps its name
    return value, other


def _rename_uses(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        for found in node.attribute:
            if found.type == AttributeProto.GRAPH:
                _rename_uses(found.g, old, new)


def behind(model: ModelProto, value: str, kind: str, *operands: str, **attributes: Any) -> str:
    """Puts an operator between a value and all that take it; the operator's name."""
    inner, outer = detach(model, value)
    return insert(model, kind, [inner, *operands], outer, **attributes).name


def replace(model: ModelProto, value: str, kind: str, *operands: str, **attributes: Any) -> str:
    """Lets an operator make a value in place of its producer; the operator's name."""
    _, outer = detach(model, value)
    return insert(model, kind, list(operands), outer, **attributes).name
