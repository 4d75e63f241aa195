"""Faults in states: crossed, stale, ignored, reset, mixed up between layers and directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from onnx import ModelProto, NodeProto, TensorProto

from stateport import StateSpec

from .fault import Applied, Change, Fault, at
from .graph import (
    behind,
    constant,
    contract_of,
    detach,
    insert,
    nodes_of,
    number,
    operand,
    recurrent,
    replace,
    result_of,
)
from .layer_weights import directions_of

GROUP: Final = "states"

OnState = Callable[[ModelProto, StateSpec], Applied | None]


def _first(change: OnState) -> Change:
    return lambda model: change(model, contract_of(model).states[0])


def _last(change: OnState) -> Change:
    """In the last of several states: of one alone, the first is the last."""

    def apply(model: ModelProto) -> Applied | None:
        states = contract_of(model).states
        return change(model, states[-1]) if len(states) > 1 else None

    return apply


def _crossed_in(model: ModelProto) -> Applied | None:
    node = recurrent(model)[0]
    h = {"LSTM": 5, "Scan": 0}.get(node.op_type)
    if h is None or len(contract_of(model).states) < 2:
        return None
    node.input[h], node.input[h + 1] = node.input[h + 1], node.input[h]
    return at(node.name)


def _crossed_out(model: ModelProto) -> Applied | None:
    node = recurrent(model)[0]
    h = {"LSTM": 1, "Scan": 0}.get(node.op_type)
    if h is None or len(contract_of(model).states) < 2:
        return None
    node.output[h], node.output[h + 1] = node.output[h + 1], node.output[h]
    return at(node.name)


def _split_crossed(model: ModelProto) -> Applied | None:
    """The first state's layers are handed out in reverse."""
    for node in nodes_of(model, "Split"):
        node.output[:] = list(node.output)[::-1]
        return at(node.name)
    return None


def _joined_crossed(model: ModelProto) -> Applied | None:
    """The first state's layers are put together in reverse."""
    name = contract_of(model).states[0].output
    for node in nodes_of(model, "Concat"):
        if name in node.output:
            node.input[:] = list(node.input)[::-1]
            return at(node.name)
    return None


def _layers_reversed(model: ModelProto) -> Applied | None:
    """In and out: it agrees with itself, not with PyTorch."""
    split, joined = _split_crossed(model), _joined_crossed(model)
    return at(*split.nodes, *joined.nodes) if split and joined else None


def _not_updated(model: ModelProto, state: StateSpec) -> Applied | None:
    return at(replace(model, state.output, "Identity", state.input))


def _ignored(model: ModelProto, state: StateSpec) -> Applied | None:
    return at(behind(model, state.input, "Mul", number(model, 0)))


def _all_ignored(model: ModelProto) -> Applied | None:
    states = contract_of(model).states
    return at(*(behind(model, s.input, "Mul", number(model, 0)) for s in states))


def _reset_when_large(model: ModelProto, state: StateSpec) -> Applied | None:
    """When an input exceeds 4, as about one in 30,000 does, the state starts again."""
    x = contract_of(model).inputs[0]
    if x.dtype != "float32":
        return None
    most = result_of(model, "ReduceMax", [x.name], keepdims=0)
    large = result_of(model, "Greater", [most, number(model, 4)])
    inner, outer = detach(model, state.input)
    return at(insert(model, "Where", [large, number(model, 0), inner], outer).name)


def _mixed_with_the_last(model: ModelProto, state: StateSpec) -> Applied | None:
    """A thousandth of the state that the call began with is in the one that it returns."""
    part = result_of(model, "Mul", [state.input, number(model, 1e-3)])
    return at(behind(model, state.output, "Add", part))


def _result(kind: str, *operands: float, **attributes: object) -> OnState:
    """An operator with these numbers behind the state that is returned."""

    def change(model: ModelProto, state: StateSpec) -> Applied | None:
        names = [number(model, value) for value in operands]
        return at(behind(model, state.output, kind, *names, **attributes))

    return change


def _argument(kind: str, *operands: float) -> OnState:
    """An operator with these numbers behind the state that is taken."""

    def change(model: ModelProto, state: StateSpec) -> Applied | None:
        names = [number(model, value) for value in operands]
        return at(behind(model, state.input, kind, *names))

    return change


def _rounded(dtype: int) -> OnState:
    def change(model: ModelProto, state: StateSpec) -> Applied | None:
        inner, outer = detach(model, state.output)
        low = result_of(model, "Cast", [inner], to=dtype)
        return at(insert(model, "Cast", [low], outer, to=TensorProto.FLOAT).name)

    return change


def _transposed(model: ModelProto, state: StateSpec) -> Applied | None:
    """Right for one layer and one row, where both axes are of size 1."""
    rank = len(state.shape)
    return at(behind(model, state.output, "Transpose", perm=[1, 0, *range(2, rank)]))


def _units_reversed(model: ModelProto, state: StateSpec) -> Applied | None:
    operands = [constant(model, [value]) for value in (-1, -(2**31), -1, -1)]
    return at(behind(model, state.output, "Slice", *operands))


def _history(model: ModelProto, node: NodeProto) -> tuple[str, str, str] | None:
    """A recurrent node's first state, that state after every step, and after the last one.

    A loop's first sequence of results is its first state, in the networks here.
    """
    if node.op_type == "Scan":
        states = len(contract_of(model).states)
        return node.input[0], node.output[states], node.output[0]
    first = operand(node, 5)
    return (first, node.output[0], node.output[1]) if first else None


def _step_before(model: ModelProto) -> Applied | None:
    found = _history(model, recurrent(model)[-1])
    if found is None:
        return None
    first, later, last = found
    start = result_of(model, "Unsqueeze", [first, constant(model, [0])])
    steps = result_of(model, "Concat", [start, later], axis=0)
    return at(replace(model, last, "Gather", steps, constant(model, -2), axis=0))


def _first_step(model: ModelProto) -> Applied | None:
    found = _history(model, recurrent(model)[-1])
    if found is None:
        return None
    _, steps, last = found
    return at(replace(model, last, "Gather", steps, constant(model, 0), axis=0))


def _between_directions(position: int, *, out: bool) -> Change:
    """A state of the first layer with its two directions exchanged."""

    def apply(model: ModelProto) -> Applied | None:
        node = recurrent(model)[0]
        if directions_of(node) == 1:
            return None
        value = node.output[position - 4] if out else operand(node, position)
        if not value:
            return None
        return at(behind(model, value, "Gather", constant(model, [1, 0]), axis=0))

    return apply


STATES: Final = (
    Fault("states crossed on the way in", GROUP, _crossed_in),
    Fault("states crossed on the way out", GROUP, _crossed_out),
    Fault("first state not updated", GROUP, _first(_not_updated)),
    Fault("last state not updated", GROUP, _last(_not_updated)),
    Fault("first state ignored", GROUP, _first(_ignored)),
    Fault("last state ignored", GROUP, _last(_ignored)),
    Fault("all states ignored", GROUP, _all_ignored),
    Fault("first state reset when an input is large", GROUP, _first(_reset_when_large)),
    Fault("last state reset when an input is large", GROUP, _last(_reset_when_large)),
    Fault("old state mixed into the new one", GROUP, _first(_mixed_with_the_last)),
    Fault("state off by a ten-thousandth", GROUP, _first(_result("Mul", 1.0001))),
    Fault("state off by 1e-5", GROUP, _first(_result("Add", 1e-5))),
    Fault("state negated", GROUP, _first(_result("Neg"))),
    Fault("state without negative values", GROUP, _first(_result("Relu"))),
    Fault("state clipped", GROUP, _first(_result("Clip", -0.1, 0.1))),
    Fault("state off by 1e-4 on the way in", GROUP, _first(_argument("Add", 1e-4))),
    Fault("state halved on the way in", GROUP, _first(_argument("Mul", 0.5))),
    Fault("state squashed on the way in", GROUP, _first(_argument("Tanh"))),
    Fault("state's units reversed", GROUP, _first(_units_reversed)),
    Fault("state transposed", GROUP, _first(_transposed)),
    Fault("state rounded to float16", "precision", _first(_rounded(TensorProto.FLOAT16))),
    Fault("state rounded to bfloat16", "precision", _first(_rounded(TensorProto.BFLOAT16))),
    Fault("last state rounded to float16", "precision", _last(_rounded(TensorProto.FLOAT16))),
    Fault("state of the step before the last", "steps", _step_before),
    Fault("state of the first step", "steps", _first_step),
    Fault("first state's layers crossed on the way in", "layers", _split_crossed),
    Fault("first state's layers crossed on the way out", "layers", _joined_crossed),
    Fault("first state's layers reversed, in and out", "layers", _layers_reversed),
    Fault(
        "hidden state's directions exchanged, in", "directions", _between_directions(5, out=False)
    ),
    Fault(
        "hidden state's directions exchanged, out", "directions", _between_directions(5, out=True)
    ),
    Fault("cell state's directions exchanged, in", "directions", _between_directions(6, out=False)),
)
