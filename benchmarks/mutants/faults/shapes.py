"""Faults in what a file promises: axes, dtypes, names, the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from onnx import ModelProto, TensorProto

from stateport import ArraySpec, Contract, StateSpec
from stateport.contract import CONTRACT_KEY

from .fault import Applied, Change, Fault, at
from .graph import behind, constant, contract_of

_OTHER: Final = Contract(
    inputs=(ArraySpec("frames", "float32", ("batch", "time", 40)),),
    outputs=(ArraySpec("scores", "float32", ("batch", "time", 3)),),
    states=(StateSpec("h0", "hn", "float32", (1, "batch", 64)),),
)


def _frozen(axis: str, size: int) -> Change:
    """An axis of all inputs with the size at which it was traced."""

    def apply(model: ModelProto) -> Applied | None:
        for value in model.graph.input:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param == axis:
                    dim.dim_value = size
        return Applied()

    return apply


def _wrong_dtype(model: ModelProto) -> Applied | None:
    output = model.graph.output[0]
    output.type.tensor_type.elem_type = TensorProto.DOUBLE
    return at(behind(model, output.name, "Cast", to=TensorProto.DOUBLE))


def _wrong_rank(model: ModelProto) -> Applied | None:
    output = model.graph.output[0]
    dims = output.type.tensor_type.shape.dim
    dims.insert(0, dims[0])
    dims[0].ClearField("dim_param")
    dims[0].dim_value = 1
    return at(behind(model, output.name, "Unsqueeze", constant(model, [0])))


def _output_missing(position: int) -> Change:
    def apply(model: ModelProto) -> Applied | None:
        del model.graph.output[position]
        return Applied()

    return apply


def _names_swapped(first: str, second: str, model: ModelProto) -> Applied:
    """Each of two values is made where the other one was."""
    other = {first: second, second: first}
    found = [node for node in model.graph.node if other.keys() & set(node.output)]
    for node in found:
        node.output[:] = [other.get(name, name) for name in node.output]
    return at(*(node.name for node in found))


def _output_and_state(model: ModelProto) -> Applied | None:
    contract = contract_of(model)
    return _names_swapped(contract.outputs[0].name, contract.states[0].output, model)


def _two_states(model: ModelProto) -> Applied | None:
    states = contract_of(model).states
    if len(states) < 2:
        return None
    return _names_swapped(states[0].output, states[1].output, model)


def _contract_absent(model: ModelProto) -> Applied | None:
    kept = [entry for entry in model.metadata_props if entry.key != CONTRACT_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return Applied()


def _contract(edit: Callable[[Contract], Contract]) -> Change:
    """Another contract; None where it is the same."""

    def apply(model: ModelProto) -> Applied | None:
        before = contract_of(model)
        after = edit(before)
        if after == before:
            return None
        for entry in model.metadata_props:
            if entry.key == CONTRACT_KEY:
                entry.value = after.to_json()
        return Applied()

    return apply


def _crosswise(contract: Contract) -> Contract:
    """The first state's output belongs to the second state's input, and the other way round."""
    if len(contract.states) < 2:
        return contract
    a, b, *rest = contract.states
    pairs = replace(a, output=b.output), replace(b, output=a.output)
    return replace(contract, states=(*pairs, *rest))


def _without_a_state(contract: Contract) -> Contract:
    return replace(contract, states=contract.states[1:])


def _other_streaming(contract: Contract) -> Contract:
    ok = not contract.streaming.ok
    return replace(contract, streaming=replace(contract.streaming, ok=ok, reason="untested"))


def _frozen_output(contract: Contract) -> Contract:
    first, *rest = contract.outputs
    shape = tuple(7 if axis == "time" else axis for axis in first.shape)
    return replace(contract, outputs=(replace(first, shape=shape), *rest))


SHAPES: Final = (
    Fault("batch frozen", "axes", _frozen("batch", 2)),
    Fault("time frozen", "axes", _frozen("time", 7)),
    Fault("time frozen in the contract", "axes", _contract(_frozen_output)),
    Fault("wrong dtype", "structure", _wrong_dtype),
    Fault("wrong rank", "structure", _wrong_rank),
    Fault("output missing", "structure", _output_missing(0)),
    Fault("state missing", "structure", _output_missing(-1)),
    Fault("output and state swapped", "structure", _output_and_state),
    Fault("first two states swapped", "states", _two_states),
    Fault("contract absent", "structure", _contract_absent),
    Fault("contract of another network", "structure", _contract(lambda _: _OTHER)),
    Fault("states paired crosswise in the contract", "states", _contract(_crosswise)),
    Fault("state missing from the contract", "structure", _contract(_without_a_state)),
    Fault("contract wrong about streaming", "structure", _contract(_other_streaming)),
)
