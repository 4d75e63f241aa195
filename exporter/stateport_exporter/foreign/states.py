"""Lifting in a graph: the first states of ONNX's recurrent operators become inputs and outputs.

What `states.hidden` does to a module, for files that somebody else exported. A first state is
hidden if it is absent, or if it depends on constants and sizes alone. It becomes an input of the
graph, and the last state an output. An operator in a branch of an `If` is reached from there; the
other branch hands its state on. One in a loop whose number of rounds the file fixes has a state for
each round.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import NameFixPass

from ..graph.dataflow import targets

Array = NDArray[Any]

#: Where each operator takes its first states; its last ones are the results behind the first.
FIRSTS: Final = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_LETTERS: Final = "hc"
#: Operators that hand on what they are given, in another shape, or as part of something larger.
_MOVES: Final = frozenset(
    {"Cast", "CastLike", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice"}
    | {"Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
_KEEPS_ORDER: Final = frozenset(
    {"Cast", "Expand", "Identity", "Reshape", "Squeeze", "Tile", "Unsqueeze"}
)


@dataclass(frozen=True)
class Lifted:
    """A state that is an input and an output of the graph now.

    `initial` is what it starts from, (directions, 1, hidden), with the rounds of loops in front;
    None for zeros.
    """

    input: str
    output: str
    initial: Array | None


@dataclass(frozen=True)
class LiftedOperator:
    """What became of one recurrent operator: "lifted", "explicit", or "left" with the reason."""

    operator: str
    name: str
    what: str
    reason: str | None = None


@dataclass(frozen=True)
class _Level:
    """A graph in a node: a branch, or the body of a loop."""

    holder: ir.Node
    body: ir.Graph


def lift_states(
    model: ir.Model, known: Collection[str] = ()
) -> tuple[list[Lifted], list[LiftedOperator]]:
    """Brings every hidden state that can be said in ONNX into the open, in place.

    `known` are the inputs that are states already, from which operators may start in any way.
    """
    found = list(recurrent_nodes(model.graph))
    lifted: list[Lifted] = []
    outcomes = []
    for node, levels in found:
        prefix = _prefix(model.graph, node, alone=len(found) == 1)
        made, outcome = _lift(model.graph, node, levels, prefix, known)
        lifted += made
        outcomes.append(outcome)
    NameFixPass()(model)  # the bodies of loops want names of their own
    return lifted, outcomes


def recurrent_nodes(
    graph: ir.Graph, levels: tuple[_Level, ...] = ()
) -> Iterator[tuple[ir.Node, tuple[_Level, ...]]]:
    """The recurrent operators, and the levels down to each."""
    for node in list(graph):
        if node.op_type in FIRSTS and node.domain in ("", "ai.onnx"):
            yield node, levels
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                body = attribute.as_graph()
                yield from recurrent_nodes(body, (*levels, _Level(node, body)))


def _lift(
    graph: ir.Graph,
    node: ir.Node,
    levels: Sequence[_Level],
    prefix: str,
    known: Collection[str],
) -> tuple[list[Lifted], LiftedOperator]:
    name = node.name or node.op_type
    hidden: list[tuple[int, Array | None]] = []
    for place in FIRSTS[node.op_type]:
        value = node.inputs[place] if place < len(node.inputs) else None
        constant = np.zeros(()) if value is None else constant_of(value)
        if constant is not None:
            hidden.append((place, constant if constant.any() else None))
        elif value is not None and (
            argument_of(graph, value) is not None or _hangs_on(value, known)
        ):
            continue
        else:
            reason = "its first state is computed from what the network is given"
            return [], LiftedOperator(node.op_type, name, "left", reason)
    if not hidden:
        return [], LiftedOperator(node.op_type, name, "explicit")
    if _has_twin(graph, node, levels):
        reason = "another branch runs the same layer from a state that it is given"
        return [], LiftedOperator(node.op_type, name, "explicit", reason)
    rounds = [_rounds(level) for level in levels]
    if None in rounds:
        reason = "it stands in a loop, and how often that goes round is not fixed"
        return [], LiftedOperator(node.op_type, name, "left", reason)
    shape = _shape(graph, node)
    if isinstance(shape, str):
        return [], LiftedOperator(node.op_type, name, "left", shape)
    lifted = []
    for place, initial in hidden:
        letter = _LETTERS[FIRSTS[node.op_type].index(place)]
        one = _lift_one(graph, node, levels, place, f"{prefix}{letter}", shape)
        counts = [count for count in rounds if count]
        if initial is not None:
            initial = _filled(initial, [*counts, *(1 if isinstance(s, str) else s for s in shape)])
        lifted.append(Lifted(*one, initial))
    return lifted, LiftedOperator(node.op_type, name, "lifted")


def _hangs_on(value: ir.Value, names: Collection[str]) -> bool:
    """Whether a value is computed from inputs of these names, through branches and loops too."""
    seen: set[ir.Value] = set()
    todo: list[ir.Value | None] = [value]
    while todo:
        current = todo.pop()
        if current is None or current in seen:
            continue
        seen.add(current)
        node = current.producer()
        if node is None:
            if current.name in names:
                return True
            continue
        todo.extend(node.inputs)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                todo.extend(list(attribute.as_graph().outputs))
    return False


def _has_twin(graph: ir.Graph, node: ir.Node, levels: Sequence[_Level]) -> bool:
    """Whether the same layer stands in another branch, where its state is an argument.

    PyTorch's older exporter writes `if state is None` that way.
    """
    if not any(level.holder.op_type == "If" for level in levels):
        return False
    weights = [_bytes_of(value) for value in node.inputs[1:3]]
    for other, _ in recurrent_nodes(graph):
        if other is not node and [_bytes_of(value) for value in other.inputs[1:3]] == weights:
            first = other.inputs[FIRSTS[other.op_type][0]] if len(other.inputs) > 5 else None
            if first is not None and constant_of(first) is None:
                return True
    return False


def _bytes_of(value: ir.Value | None) -> bytes | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy().tobytes()


def _lift_one(
    graph: ir.Graph,
    node: ir.Node,
    levels: Sequence[_Level],
    place: int,
    name: str,
    shape: Sequence[int | str],
) -> tuple[str, str]:
    """One state of one operator: through all levels down to it, and up again."""
    x = node.inputs[0]
    assert x is not None
    dtype = x.dtype or ir.DataType.FLOAT
    counts = [count for level in levels if (count := _rounds(level))]
    top = ir.Value(
        name=_free(graph, f"{name}0"),
        type=ir.TensorType(dtype),
        shape=ir.Shape([*counts, *shape]),
    )
    graph.inputs.append(top)
    inside = [top]  # what the state is in each level
    for level in levels:
        inside.append(_into(level, inside[-1], f"{top.name}.{len(inside)}", dtype))
    if place >= len(node.inputs):
        node.resize_inputs(place + 1)
    node.replace_input_with(place, inside[-1])
    result = 1 + FIRSTS[node.op_type].index(place)
    if result >= len(node.outputs):
        node.resize_outputs(result + 1)
    last = node.outputs[result]
    last.dtype = dtype
    for level, outside in zip(reversed(levels), reversed(inside[:-1]), strict=True):
        last = _out_of(level, last, outside)
        last.dtype = dtype
    if last.is_graph_output():
        assert last.name is not None
        return str(top.name), last.name
    last.name = _free(graph, f"{name}n")
    last.shape = ir.Shape([*counts, *shape])
    graph.outputs.append(last)
    return str(top.name), last.name


def _into(level: _Level, value: ir.Value, name: str, dtype: ir.DataType) -> ir.Value:
    """The state in a level, which has `value` around it."""
    holder, body = level.holder, level.body
    if holder.op_type == "If":
        return value
    if holder.op_type == "Scan":
        inner = ir.Value(name=name, type=ir.TensorType(dtype))
        body.inputs.append(inner)
        holder.resize_inputs(len(holder.inputs) + 1)
        holder.replace_input_with(len(holder.inputs) - 1, value)
        count = holder.attributes["num_scan_inputs"].as_int()
        holder.attributes["num_scan_inputs"] = ir.AttrInt64("num_scan_inputs", count + 1)
        _extend(holder, "scan_input_axes", "scan_input_directions")
        return inner
    node = ir.node("Gather", [value, body.inputs[0]], {"axis": 0})
    node.outputs[0].dtype = dtype
    body.insert_before(body[0], node)
    return node.outputs[0]


def _out_of(level: _Level, value: ir.Value, outside: ir.Value) -> ir.Value:
    """The next state outside of a level; the other branch of an `If` hands on what it was."""
    holder, body = level.holder, level.body
    if value.is_graph_output():
        value = _again(body, value)
    body.outputs.append(value)
    if holder.op_type == "If":
        for attribute in holder.attributes.values():
            other = attribute.as_graph()
            if other is not body:
                other.outputs.append(_again(other, outside))
    elif holder.op_type == "Scan":
        _extend(holder, "scan_output_axes", "scan_output_directions")
    holder.resize_outputs(len(holder.outputs) + 1)
    return holder.outputs[-1]


def _again(graph: ir.Graph, value: ir.Value) -> ir.Value:
    node = ir.node("Identity", [value])
    node.outputs[0].type = value.type
    graph.append(node)
    return node.outputs[0]


def _extend(node: ir.Node, *names: str) -> None:
    """What is said of every scanned sequence is the usual for one more."""
    for name in names:
        if name in node.attributes:
            numbers = [*node.attributes[name].as_ints(), 0]
            node.attributes[name] = ir.AttrInt64s(name, numbers)


def _rounds(level: _Level) -> int | None:
    """How often a loop goes round, 0 for a branch; None where the file does not fix it."""
    holder, body = level.holder, level.body
    if holder.op_type == "If":
        return 0
    if holder.op_type == "Scan":
        count = holder.attributes["num_scan_inputs"].as_int()
        axes = holder.attributes.get("scan_input_axes")
        axis = axes.as_ints()[0] if axes is not None else 0
        sequence = holder.inputs[len(holder.inputs) - count]
        size = None if sequence is None or sequence.shape is None else sequence.shape[axis]
        return size if isinstance(size, int) else None
    if holder.op_type != "Loop":
        return None
    most = _number(holder.inputs[0])
    going: bool = holder.inputs[1] is None or _number(holder.inputs[1]) == 1
    goes_on = body.outputs[0]
    while (node := goes_on.producer()) is not None and node.op_type == "Identity":
        assert node.inputs[0] is not None
        goes_on = node.inputs[0]
    going = going and (goes_on is body.inputs[1] or _number(goes_on) == 1)
    return most if going else None


def _number(value: ir.Value | None) -> int | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return int(tensor.numpy().ravel()[0]) if tensor is not None and tensor.size == 1 else None


def _shape(graph: ir.Graph, node: ir.Node) -> list[int | str] | str:
    """(directions, batch, hidden), or the batch first where the layout says so; or why not."""
    axes = {str(dim) for value in graph.inputs for dim in value.shape or ()}
    weights = node.inputs[2]
    hidden: Any = None
    if "hidden_size" in node.attributes:
        hidden = node.attributes["hidden_size"].as_int()
    elif weights is not None and weights.shape is not None:
        hidden = weights.shape[2]
    if not isinstance(hidden, int):
        return "the size of its state is not known"
    x, layout = node.inputs[0], _attribute(node, "layout", 0)
    size = None if x is None or x.shape is None else x.shape[0 if layout else 1]
    if isinstance(size, ir.SymbolicDim) and size.value is not None:
        # Of names that ONNX's shape inference makes up, nothing is known; then trying shows it.
        others = {*re.findall(r"\w+", str(size.value))} & axes - {"batch"}
        if others:
            return f"its rows are not those of the batch, but {size}"
    # Where no input has a batch axis, the file fixes it, and one row is what it has.
    batch = size if isinstance(size, int) else "batch" if "batch" in axes else 1
    directions = 2 if is_bidirectional(node) else 1
    return [batch, directions, hidden] if layout else [directions, batch, hidden]


def explicit_pairs(graph: ir.Graph, known: Mapping[str, str]) -> dict[str, str]:
    """Arguments that operators start from, and the outputs that their last states go to.

    An argument whose next value is no output yet gets one. `known` are pairs that stand already.
    """
    pairs: dict[str, str] = {}
    for node in list(graph):
        for number, place in enumerate(FIRSTS.get(node.op_type, ())):
            value = node.inputs[place] if place < len(node.inputs) else None
            source = None if value is None else argument_of(graph, value)
            if source is None or source.name is None or source.name in {*known, *pairs}:
                continue
            if len(node.outputs) <= 1 + number:
                node.resize_outputs(2 + number)
            last = node.outputs[1 + number]
            nexts = targets(graph, last, _MOVES)
            if not nexts and source is value:
                last.name = _free(graph, f"{source.name}_n")
                last.type, last.shape = source.type, source.shape
                graph.outputs.append(last)
                nexts = [last]
            if len(nexts) == 1 and nexts[0].name is not None:
                pairs[source.name] = nexts[0].name
    return pairs


def lengths_of_rows(graph: ir.Graph) -> list[str]:
    """The inputs that hold the lengths of rows, as operators take them."""
    found = []
    for node, _ in recurrent_nodes(graph):
        value = node.inputs[4] if len(node.inputs) > 4 else None
        source = None if value is None else argument_of(graph, value)
        if source is not None and source.name is not None:
            found.append(source.name)
    return found


def is_bidirectional(node: ir.Node) -> bool:
    """Whether an operator runs both ways."""
    return "direction" in node.attributes and (
        node.attributes["direction"].as_string() == "bidirectional"
    )


def _attribute(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def argument_of(graph: ir.Graph, value: ir.Value) -> ir.Value | None:
    """The graph's input that a value is, or is part of; None where it is none, or computed."""
    while value not in graph.inputs:
        node = value.producer()
        if node is None or node.op_type not in _MOVES or node.inputs[0] is None:
            return None
        value = node.inputs[0]
    return value


def constant_of(value: ir.Value) -> Array | None:
    """What a value is that depends on constants and sizes alone; None where it depends on more.

    A single number where all elements are the same; else the elements in order, without repeats
    along the batch.
    """
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        array: Array = tensor.numpy()
        same = array.size > 0 and bool((array == array.flat[0]).all())
        return np.array(array.flat[0]) if same else array
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "ConstantOfShape":
        fill = node.attributes.get("value")
        return np.zeros(()) if fill is None else fill.as_tensor().numpy().reshape(())
    if node.op_type not in _MOVES:
        return None
    operands = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    parts = [None if operand is None else constant_of(operand) for operand in operands]
    if any(part is None for part in parts):
        return None
    arrays = [part for part in parts if part is not None]
    if all(array.ndim == 0 and array == arrays[0] for array in arrays):
        return arrays[0]
    return arrays[0] if node.op_type in _KEEPS_ORDER else None


def _filled(initial: Array, shape: Sequence[int]) -> Array:
    """A first state of this shape, from one number or from all that it has."""
    if initial.ndim == 0:
        return np.full(shape, initial, np.float32)
    return np.broadcast_to(initial.reshape(shape[-3:]), shape).astype(np.float32)


def _prefix(graph: ir.Graph, node: ir.Node, *, alone: bool) -> str:
    """What stands before h0 and c0: nothing for the only operator, else its name."""
    if alone and not {f"{letter}0" for letter in _LETTERS} & _names(graph):
        return ""
    text = re.sub(r"\W+", "_", node.name or node.op_type.lower()).strip("_")
    return f"{text}_"


def _free(graph: ir.Graph, name: str) -> str:
    taken = _names(graph)
    names = (name if number == 1 else f"{name}_{number}" for number in range(1, len(taken) + 2))
    return next(one for one in names if one not in taken)


def _names(graph: ir.Graph) -> set[str]:
    made = (value for node in graph for value in node.outputs)
    values = (*graph.inputs, *graph.initializers.values(), *made)
    return {value.name for value in values if value.name is not None}
