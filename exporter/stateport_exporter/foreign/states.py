# SPDX-License-Identifier: Apache-2.0
"""Lifting in a graph: the states of ONNX's recurrent operators become inputs and outputs.

`states.hidden` does this to a module; here it is done to files of other exporters. An initial state
is hidden if it is absent, or if it depends only on constants and sizes. It becomes an input of the
graph, and the last state becomes an output. A state in a branch of an `If` is passed into the
branch, and the other branch passes it on unchanged. In a loop whose number of iterations the file
fixes, an operator has one state for each iteration.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import NameFixPass

from ..graph.dataflow import axes, dim_of, name_of_dim
from .arguments import argument_of, depends_on
from .constants import constant_of, tensor_of
from .frozen_batch import initial_value, rows_of
from .levels import Level, enter_level, iterations_of, leave_level
from .names import free_name, state_prefix
from .recurrent_operators import (
    INITIAL_STATES,
    directions_of,
    hidden_size,
    operand,
    recurrent_nodes,
    result_at,
)

Array = NDArray[Any]

_LETTERS: Final = "hc"


@dataclass(frozen=True)
class Lifted:
    """A state that has become an input and an output of the graph.

    `initial` is its initial value, (directions, 1, hidden), with the iterations of loops in front;
    None for zeros.
    """

    input: str
    output: str
    initial: Array | None


@dataclass(frozen=True)
class LiftedOperator:
    """What became of one recurrent operator.

    Attributes:
        operator: "LSTM", "GRU", "RNN" or "DynamicQuantizeLSTM"; or "Scan" or "Loop", which
            carries a value.
        name: the name of its node in the graph.
        what: "lifted"; "explicit", where its states were inputs and outputs already; or "left".
        reason: why it was left.
    """

    operator: str
    name: str
    what: str
    reason: str | None = None


def lift_states(
    model: ir.Model, known: Collection[str] = ()
) -> tuple[list[Lifted], list[LiftedOperator]]:
    """Turns every hidden state that can be lifted into an input and an output, in place.

    `known` are inputs that are states already. Operators may start from values computed from them.

    Returns:
        The states that have been lifted, and what became of each recurrent operator.
    """
    # All plans are made first: a state that has been lifted looks like one of the author's.
    operators = list(recurrent_nodes(model.graph))
    plans = [_plan_lifting(model.graph, node, levels, known) for node, levels in operators]

    lifted: list[Lifted] = []
    outcomes = []
    for (node, levels), plan in zip(operators, plans, strict=True):
        if isinstance(plan, LiftedOperator):
            outcomes.append(plan)
            continue

        prefix = state_prefix(model.graph, node, alone=len(operators) == 1)
        lifted += _lift_operator(model.graph, node, levels, prefix, plan)
        outcomes.append(LiftedOperator(node.op_type, node.name or node.op_type, "lifted"))

    NameFixPass()(model)  # names in the bodies of loops have to be unique
    return lifted, outcomes


@dataclass(frozen=True)
class _Plan:
    """The states of one operator that can be lifted.

    Attributes:
        hidden: their initial values by position among the operands, None for zeros.
        shape: the shape of each, with the iterations of loops in front.
    """

    hidden: dict[int, Array | None]
    shape: list[int | str]


def _lift_operator(
    graph: ir.Graph,
    node: ir.Node,
    levels: Sequence[Level],
    prefix: str,
    plan: _Plan,
) -> list[Lifted]:
    lifted = []
    for position, initial in plan.hidden.items():
        letter = _LETTERS[INITIAL_STATES[node.op_type].index(position)]
        names = _lift_state(graph, node, levels, position, f"{prefix}{letter}", plan.shape)
        if initial is not None:
            initial = initial_value(initial, plan.shape, _dtype_of(node))
        lifted.append(Lifted(*names, initial))
    return lifted


def _plan_lifting(
    graph: ir.Graph, node: ir.Node, levels: Sequence[Level], known: Collection[str]
) -> _Plan | LiftedOperator:
    """The states to lift; or what becomes of the operator if there are none."""

    def not_lifted(what: str, reason: str | None = None) -> LiftedOperator:
        return LiftedOperator(node.op_type, node.name or node.op_type, what, reason)

    hidden = _hidden_states(graph, node, known)
    if hidden is None:
        return not_lifted("left", "its initial state is computed from the network's inputs")
    if not hidden:
        return not_lifted("explicit")
    if _has_twin(graph, node, levels):
        reason = "another branch runs the same layer from a state that is an argument"
        return not_lifted("explicit", reason)

    iterations = [*map(iterations_of, levels)]
    if None in iterations:
        reason = "it is in a loop, and the file does not fix the number of iterations"
        return not_lifted("left", reason)

    shape = _fitting_shape(graph, node, hidden.values())
    if isinstance(shape, str):
        return not_lifted("left", shape)

    loops = [*filter(None, iterations)]  # a branch has none
    return _Plan(hidden, [*loops, *shape])


def _hidden_states(
    graph: ir.Graph, node: ir.Node, known: Collection[str]
) -> dict[int, Array | None] | None:
    """The hidden initial states, by position: their constants, or None for zeros.

    None if the operator starts from something that is neither constant nor a state.
    """
    hidden: dict[int, Array | None] = {}
    for position in INITIAL_STATES[node.op_type]:
        value = operand(node, position)
        constant = np.zeros(()) if value is None else constant_of(value)
        if constant is not None:
            hidden[position] = constant if constant.any() else None
        elif value is not None and not _is_explicit(graph, value, known):
            return None
    return hidden


def _fitting_shape(
    graph: ir.Graph, node: ir.Node, constants: Iterable[Array | None]
) -> list[int | str] | str:
    """The shape of an operator's states; a sentence if its constant first states have another."""
    shape = _state_shape(graph, node)
    if isinstance(shape, str) or _fit(node, constants, shape):
        return shape
    return "the constants that it starts from do not have the shape of its state"


def _fit(node: ir.Node, constants: Iterable[Array | None], shape: Sequence[int | str]) -> bool:
    """Whether constant first states have the shape of the state, or one row for all of its rows."""
    directions, batch, width = directions_of(node), *shape[-2:]
    for constant in constants:
        if constant is None:
            continue

        rows = rows_of(constant, directions, int(width))
        if rows is None or rows.shape[1] not in (1, batch):
            return False
    return True


def _is_explicit(graph: ir.Graph, value: ir.Value, known: Collection[str]) -> bool:
    """Whether an initial state is an input of the graph, or computed from states."""
    return argument_of(graph, value) is not None or depends_on(value, known)


def _has_twin(graph: ir.Graph, node: ir.Node, levels: Sequence[Level]) -> bool:
    """Whether the same layer is in another branch, where its state is an argument.

    PyTorch's older exporter writes `if state is None` in this way.
    """
    if not any(level.holder.op_type == "If" for level in levels):
        return False

    weights = _weight_bytes(node)
    for twin, _ in recurrent_nodes(graph):
        is_same_layer = twin is not node and _weight_bytes(twin) == weights
        if is_same_layer and _starts_from_argument(twin):
            return True
    return False


def _starts_from_argument(node: ir.Node) -> bool:
    initial = operand(node, INITIAL_STATES[node.op_type][0])
    return initial is not None and constant_of(initial) is None


def _weight_bytes(node: ir.Node) -> list[bytes | None]:
    """The contents of both weights of an operator; None for one that is computed."""
    return [*map(_bytes_of, node.inputs[1:3])]


def _bytes_of(value: ir.Value | None) -> bytes | None:
    tensor = tensor_of(value)
    if tensor is None:
        return None
    return tensor.numpy().tobytes()


def _state_shape(graph: ir.Graph, node: ir.Node) -> list[int | str] | str:
    """The shape of an operator's states, or a sentence on why they cannot be lifted.

    It is (directions, batch, hidden).
    """
    hidden = hidden_size(node)
    if hidden is None:
        return "the size of its state is not known"

    rows = _row_count(node)
    names_of_axes = _axis_names(graph.inputs)
    # Names that ONNX's shape inference makes up tell nothing. If such rows are not those of the
    # batch, the comparison of both files shows it.
    name = name_of_dim(rows)
    if name is not None:
        names = set(re.findall(r"\w+", name))
        if names & (names_of_axes - {"batch"}):
            return f"its rows are not those of the batch, but {rows}"

    batch: int | str
    if isinstance(rows, int):
        batch = rows
    elif "batch" in names_of_axes:
        batch = "batch"
    else:  # the file fixes the batch, and its size is one
        batch = 1

    return [directions_of(node), batch, hidden]


def _row_count(node: ir.Node) -> int | ir.SymbolicDim | None:
    """The size of the batch axis of an operator's sequence."""
    return dim_of(node.inputs[0], 1)


def _axis_names(values: Iterable[ir.Value]) -> set[str]:
    names: set[str] = set()
    for value in values:
        names.update(axes(value))
    return names


def _lift_state(
    graph: ir.Graph,
    node: ir.Node,
    levels: Sequence[Level],
    position: int,
    name: str,
    shape: Sequence[int | str],
) -> tuple[str, str]:
    """Lifts one state of one operator, through all levels from the graph down to it.

    Args:
        graph: the outermost graph.
        node: the operator.
        levels: the levels down to it.
        position: the position of the initial state among its operands.
        name: what the input and the output are called, without "0" and "n".
        shape: the shape of both.

    Returns:
        The names of the input and the output.
    """
    dtype = _dtype_of(node)
    argument = ir.Value(
        name=free_name(graph, f"{name}0"), type=ir.TensorType(dtype), shape=ir.Shape(shape)
    )
    graph.inputs.append(argument)

    # The state as it is outside of each level, and at last as the operator sees it.
    outside = [argument]
    for level in levels:
        inner_name = f"{argument.name}.{len(outside)}"
        outside.append(enter_level(level, outside[-1], inner_name, dtype))
    _set_operand(node, position, outside.pop())

    last = _last_state(node, position)
    last.dtype = dtype
    for level, before in zip(reversed(levels), reversed(outside), strict=True):
        last = leave_level(level, last, before)
        last.dtype = dtype
    return str(argument.name), _as_output(graph, last, name, shape)


def _dtype_of(node: ir.Node) -> ir.DataType:
    """The dtype of an operator's sequence, which its states have too."""
    x = node.inputs[0]
    if x is None or x.dtype is None:
        return ir.DataType.FLOAT
    return x.dtype


def _set_operand(node: ir.Node, position: int, value: ir.Value) -> None:
    if position >= len(node.inputs):
        node.resize_inputs(position + 1)
    node.replace_input_with(position, value)


def _last_state(node: ir.Node, position: int) -> ir.Value:
    """The result that holds the last of the states of this initial state."""
    return result_at(node, 1 + INITIAL_STATES[node.op_type].index(position))


def _as_output(graph: ir.Graph, last: ir.Value, name: str, shape: Sequence[int | str]) -> str:
    """Makes a last state an output, if it is none yet; returns its name."""
    if last.is_graph_output():
        assert last.name is not None
        return last.name

    last.name = free_name(graph, f"{name}n")
    last.shape = ir.Shape(shape)
    graph.outputs.append(last)
    return last.name
