# SPDX-License-Identifier: Apache-2.0
"""Lifting values that a loop over time carries: the states in `Scan` and `Loop` bodies.

tf2onnx writes Keras' recurrent layers in this way where ONNX's own operators do not fit (masks,
cells of a user). A carried value that starts from a constant becomes an input of the graph, and its
last value becomes an output, also where the loop lies in a branch of an `If`. How `Scan` and `Loop`
order their operands is in ONNX's specification:
https://onnx.ai/onnx/operators/onnx__Scan.html and https://onnx.ai/onnx/operators/onnx__Loop.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import NodeProto
from onnx.reference import ReferenceEvaluator

from stateport.picking import sure

from ..graph.dataflow import dims_of, name_of_dim, origin, reachable
from .arguments import depends_on
from .constants import constant_of
from .levels import Level, iterations_of, leave_level
from .names import free_name, state_prefix
from .states import Lifted, LiftedOperator

Array = NDArray[Any]

#: Sizes of open axes in two evaluations of a first value: an axis of it that has both sizes of one
#: name has that name. No network has such sizes by chance.
_SIZES: Final = (
    (101, 103, 107, 109, 113, 127, 131, 137),
    (139, 149, 151, 157, 163, 167, 173, 179),
)
#: The shape of a first value, with names for its open axes, and its numbers, where those are 1.
_FirstValue = tuple[Sequence[int | str], Array]
#: A loop, and the branches down to it.
_Loop = tuple[ir.Node, tuple[Level, ...]]
_LETTERS: Final = "hc"
_FLOATS: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class _Carried:
    """A value that a loop carries: its positions outside of the body, and itself inside of it."""

    operand: int
    result: int
    before: ir.Value
    after: ir.Value


def lift_carried(
    model: ir.Model,
) -> tuple[list[Lifted], list[LiftedOperator], dict[str, str]]:
    """Turns values that loops over time carry into inputs and outputs of the graph, in place.

    Returns:
        The states that have been lifted; what became of each loop that carries one; and the names
        of axes that a loop runs along, {"s27": "time"}.
    """
    loops = [*_loops(model.graph)]
    # All plans are made first: a loop that has been lifted starts from no constant any more.
    plans = []
    for node, branches in loops:
        hidden = [*_hidden(node)]
        if hidden:
            plans.append(_plan_lifting(model, node, branches, hidden))

    lifted: list[Lifted] = []
    outcomes: list[LiftedOperator] = []
    times: dict[str, str] = {}
    for plan in plans:
        if isinstance(plan, LiftedOperator):
            outcomes.append(plan)
            continue

        node = plan.node
        prefix = state_prefix(model.graph, node, alone=len(loops) == 1)
        lifted += _lift_loop(model.graph, plan, prefix)
        outcomes.append(LiftedOperator(node.op_type, node.name or node.op_type, "lifted"))
        along = [*_axes_along(model.graph, node)] or _axes_beside(model.graph, lifted)
        times.update(dict.fromkeys(along, "time"))
    return lifted, outcomes, times


@dataclass(frozen=True)
class _Plan:
    """The states of one loop, and their first values; `branches` lead down to the loop."""

    node: ir.Node
    branches: tuple[Level, ...]
    states: Sequence[_Carried]
    firsts: Sequence[_FirstValue]


def _plan_lifting(
    model: ir.Model, node: ir.Node, branches: tuple[Level, ...], hidden: Sequence[_Carried]
) -> _Plan | LiftedOperator:
    """How to lift the hidden states of a loop; or why they cannot be lifted."""
    reason = _why_not(model.graph, node)
    firsts = None if reason else _first_values(model, node, branches, hidden)
    if firsts is None:
        reason = reason or "its first values cannot be evaluated"
        return LiftedOperator(node.op_type, node.name or node.op_type, "left", reason)
    return _Plan(node, branches, hidden, firsts)


def _lift_loop(graph: ir.Graph, plan: _Plan, prefix: str) -> Iterator[Lifted]:
    """Lifts all states of one loop, with names that begin with a prefix."""
    states = plan.states
    for number, (state, first) in enumerate(zip(states, plan.firsts, strict=True)):
        letter = _LETTERS[number] if len(states) <= len(_LETTERS) else f"s{number + 1}_"
        yield _lift(graph, plan, state, f"{prefix}{letter}", first)


def _loops(graph: ir.Graph, branches: tuple[Level, ...] = ()) -> Iterator[_Loop]:
    """The loops of a graph and of the branches in it, each with the branches down to it.

    A loop in the body of another one starts anew in each iteration of that one.
    """
    for node in graph:
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type in ("Scan", "Loop"):
            yield node, branches
        elif node.op_type == "If":
            for attribute in node.attributes.values():
                branch = attribute.as_graph()
                yield from _loops(branch, (*branches, Level(node, branch)))


def _carried(node: ir.Node) -> Iterator[_Carried]:
    """All values that a loop carries from one iteration to the next."""
    body = node.attributes["body"].as_graph()
    if node.op_type == "Scan":
        count = len(node.inputs) - node.attributes["num_scan_inputs"].as_int()
        for number in range(count):
            yield _Carried(number, number, body.inputs[number], body.outputs[number])
    else:  # a Loop has a number of iterations and a condition in front
        for number in range(len(node.inputs) - 2):
            before = body.inputs[number + 2]
            after = body.outputs[number + 1]
            yield _Carried(number + 2, number, before, after)


def _hidden(node: ir.Node) -> Iterator[_Carried]:
    """The carried values that are states: they start from a constant, and the body changes them.

    Values that the body passes on as they are do not change. An integer of a `Loop` may be the
    number of the step in the call, which starts anew in each call; a `Scan` needs no such number.
    """
    body = node.attributes["body"].as_graph()
    for carried in _carried(node):
        first = node.inputs[carried.operand]
        if first is None or constant_of(first) is None or origin(carried.after) is carried.before:
            continue
        may_be_state = node.op_type == "Scan" or _is_float(first, carried)
        if may_be_state and _matters(node, body, carried):
            yield carried


def _is_float(first: ir.Value, carried: _Carried) -> bool:
    for value in (first, carried.before, carried.after):
        if value.dtype is not None:
            return value.dtype in _FLOATS
    return True


def _matters(node: ir.Node, body: ir.Graph, carried: _Carried) -> bool:
    """Whether a carried value changes more than itself, or its last value is used."""
    last = node.outputs[carried.result]
    is_used = bool(last.uses()) or last.is_graph_output()
    keeps_on = depends_on(carried.after, [str(carried.before.name)])
    return (is_used and keeps_on) or _changes_others(body, carried)


def _changes_others(body: ir.Graph, carried: _Carried) -> bool:
    """Whether another result of a loop's body depends on a carried value."""
    others = (output for output in body.outputs if output is not carried.after)
    return any(depends_on(output, [str(carried.before.name)]) for output in others)


def _why_not(graph: ir.Graph, node: ir.Node) -> str | None:
    """Why the values that a loop carries are not those of time; None if they may be."""
    directions = node.attributes.get("scan_input_directions")
    if directions is not None and any(directions.as_ints()):
        return "it runs backwards over time, so that it needs the whole sequence"

    count = iterations_of(Level(node, node.attributes["body"].as_graph()))
    has_open_axes = any(len(_open_axes(value)) > 1 for value in graph.inputs)
    if count is not None and has_open_axes:
        return f"it always makes {count} iterations, so that it does not run over time"
    if node.op_type == "Loop" and _may_end_early(node.attributes["body"].as_graph()):
        return "its condition depends on the data, so that it may end before the sequence does"
    return None


def _may_end_early(body: ir.Graph) -> bool:
    """Whether the condition of a `Loop` depends on floating-point data.

    Numbers of steps are integers. tf2onnx compares them as floating-point numbers, so that what the
    body computes tells nothing: what goes into it does.
    """

    def sources(value: ir.Value) -> Iterator[ir.Value | None]:
        node = value.producer()
        if node is not None and node.graph is body and node.op_type not in ("Shape", "Size"):
            yield from node.inputs

    for value in reachable(body.outputs[0], sources):
        node = value.producer()
        goes_in = node is None or node.graph is not body
        if goes_in and value.dtype in _FLOATS and constant_of(value) is None:
            return True
    return False


def _open_axes(value: ir.Value) -> list[str]:
    """The names of a value's axes that have no size."""
    names = []
    for dim in dims_of(value):
        name = name_of_dim(dim)
        if name is not None:
            names.append(name)
    return names


def _axes_along(graph: ir.Graph, node: ir.Node) -> Iterator[str]:
    """The names of inputs' axes that a Scan runs along."""
    if node.op_type != "Scan":
        return

    names = _names_of(graph.inputs)
    count = node.attributes["num_scan_inputs"].as_int()
    along = node.attributes.get("scan_input_axes")
    axes = along.as_ints() if along is not None else [0] * count
    for value, axis in zip(node.inputs[len(node.inputs) - count :], axes, strict=True):
        if value is not None and value.shape is not None:
            dim = value.shape[axis]
            if isinstance(dim, ir.SymbolicDim) and str(dim.value) in names:
                yield str(dim.value)


def _axes_beside(graph: ir.Graph, lifted: Sequence[Lifted]) -> list[str]:
    """The only axis of the inputs, beside those of states, that has no size; else nothing."""
    states = {state.input for state in lifted}
    of_states: set[str] = set()
    of_inputs: set[str] = set()
    for value in graph.inputs:
        names = of_states if value.name in states else of_inputs
        names.update(_open_axes(value))
    rest = sorted(of_inputs - of_states)
    return rest if len(rest) == 1 else []


def _lift(graph: ir.Graph, plan: _Plan, carried: _Carried, name: str, first: _FirstValue) -> Lifted:
    """Makes one carried value an input of the graph, and its last value an output.

    A branch reads the input as it reads all values around it. Its `If` has the last value as one
    more result, which the other branch passes on unchanged.
    """
    shape, initial = first
    dtype = ir.DataType.from_numpy(initial.dtype)
    argument = ir.Value(
        name=free_name(graph, f"{name}0"), type=ir.TensorType(dtype), shape=ir.Shape(shape)
    )
    graph.inputs.append(argument)
    plan.node.replace_input_with(carried.operand, argument)

    result = plan.node.outputs[carried.result]
    result.type = ir.TensorType(dtype)
    for branch in reversed(plan.branches):
        result = leave_level(branch, result, argument)

    # A copy, so that a last value that is an output already stays one.
    copy = ir.node("Identity", [result])
    last = copy.outputs[0]
    last.name = free_name(graph, f"{name}n")
    last.type, last.shape = ir.TensorType(dtype), ir.Shape(shape)
    graph.append(copy)
    graph.outputs.append(last)
    return Lifted(str(argument.name), str(last.name), initial if initial.any() else None)


def _first_values(
    model: ir.Model, node: ir.Node, branches: Iterable[Level], hidden: Iterable[_Carried]
) -> list[_FirstValue] | None:
    """The first values of what a loop carries; None where onnx's reference cannot give one."""
    values = []
    for carried in hidden:
        first = sure(node.inputs[carried.operand])
        try:
            values.append(_first_value(model, branches, first))
        except Exception:  # an operator that onnx's reference lacks, or fails on
            return None
    return values


def _first_value(model: ir.Model, branches: Iterable[Level], first: ir.Value) -> _FirstValue:
    """The shape of a first value, with names for its open axes; and its numbers, where those are 1.

    The nodes in front of it compute it from constants and from sizes of the graph's inputs.
    """
    names = sorted(_names_of(model.graph.inputs))
    evaluate = _evaluation(model, branches, first)
    runs = [dict(zip(names, sizes, strict=False)) for sizes in _SIZES]
    shapes = [evaluate(dict.fromkeys(names, 2) | run).shape for run in runs]

    first_run, second_run = runs
    names_of_sizes = {(first_run[name], second_run[name]): name for name in first_run}
    shape = [names_of_sizes.get(pair, pair[0]) for pair in zip(*shapes, strict=True)]
    return shape, evaluate(dict.fromkeys(names, 1))


def _names_of(values: Iterable[ir.Value]) -> set[str]:
    """The names of all axes without a size."""
    names: set[str] = set()
    for value in values:
        names.update(_open_axes(value))
    return names


def _names_read(node: NodeProto) -> Iterator[str]:
    """The names of what a node reads, in the graphs inside of it too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _names_read(inner)
        yield from (value.name for value in attribute.g.output)


def _evaluation(model: ir.Model, branches: Iterable[Level], value: ir.Value) -> Any:
    """A function that gives a value for sizes of the axes of the graph's inputs.

    The value is one of the graph, or of the innermost of these branches.
    """
    proto = ir.to_proto(model)
    for branch in branches:
        inner = ir.to_proto(branch.body)
        proto.graph.node.extend(inner.node)
        proto.graph.initializer.extend(inner.initializer)

    needed, nodes = {value.name}, []
    for node in reversed(proto.graph.node):
        if needed.intersection(node.output):
            needed.update(_names_read(node))
            nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    del proto.graph.output[:]
    proto.graph.output.add().name = str(value.name)
    del proto.graph.value_info[:]
    evaluator = ReferenceEvaluator(proto)

    def evaluate(sizes: Mapping[str, int]) -> Array:
        inputs = {}
        for spec in model.graph.inputs:
            if spec.name in needed:
                dims = []
                for dim in dims_of(spec):
                    dims.append(dim if isinstance(dim, int) else sizes[str(dim.value)])
                dtype = ir.DataType.FLOAT if spec.dtype is None else spec.dtype
                inputs[str(spec.name)] = np.zeros(dims, dtype.numpy())
        (array,) = evaluator.run(None, inputs)
        return np.asarray(array)

    return evaluate
