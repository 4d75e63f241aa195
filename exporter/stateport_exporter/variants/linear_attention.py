# SPDX-License-Identifier: Apache-2.0
"""Loops that compute linear attention, recognised by what they compute.

How a network writes its step differs: products, `einsum`, `matmul`, the matrix one way or the
other. So the step runs once in float64 on random values, and each rule of the operator is tried
with each assignment of its operands. The rules are those of `com.microsoft.LinearAttention`,
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, which ONNX has too
since opset 27.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from stateport.picking import positions_of, present

from ..evaluation.widening import widen_graph
from ..graph.dataflow import dims_of, parts
from .operands import required_operand

Array = NDArray[Any]

#: The batch of the step that is tried, where the file takes any.
_BATCH: Final = 2
#: The operands that each rule has beside query, key and value.
_RULES: Final[Mapping[str, tuple[str, ...]]] = {
    "linear": (),
    "gated": ("decay",),
    "delta": ("beta",),
    "gated_delta": ("decay", "beta"),
}
#: How a step may make its decay of an operand: by name, the logarithm of the decay.
_LOGARITHMS: Final[Mapping[str, Callable[[Array], Array]]] = {
    "itself": np.log,
    "exp": lambda x: x,
    "exp of negative": np.negative,
    "sigmoid": lambda x: -np.logaddexp(0, -x),
}
#: Operators whose results are never negative, so that they have a logarithm.
_GATES: Final = ("Sigmoid", "HardSigmoid", "Softmax")
_NEVER_NEGATIVE: Final = (*_GATES, "Exp", "Softplus", "Relu", "Abs")
#: Operators whose results are never negative if their operands are not.
_PRODUCTS: Final = ("Add", "Mul", "Div", "Sqrt")


@dataclass(frozen=True)
class Layout:
    """How the state holds one matrix (keys, values) for each head.

    Attributes:
        heads: the number of matrices.
        keys: the number of their rows.
        values: the number of their columns.
        flipped: the state holds values first.
    """

    heads: int
    keys: int
    values: int
    flipped: bool = False

    def matrices(self, state: Array) -> Array:
        """A state as (batch, heads, keys, values)."""
        if self.flipped:
            return state.reshape(-1, self.heads, self.values, self.keys).swapaxes(2, 3)
        return state.reshape(-1, self.heads, self.keys, self.values)

    def widths(self, role: str) -> tuple[int, ...]:
        """The sizes that an operand of this role may have in a row, the operator's own first."""
        if role == "value":
            return (self.heads * self.values,)
        if role == "beta":
            return (self.heads,)
        if role == "decay":
            return self.heads * self.keys, self.heads
        return self.heads * self.keys, self.keys  # one key for all heads

    def per_head(self, role: str, operand: Array) -> Array:
        """An operand (batch, width) so that it meets the matrices."""
        rows = operand.reshape(len(operand), -1)
        if role == "value":
            return rows.reshape(-1, self.heads, 1, self.values)
        if role == "beta" or (role == "decay" and rows.shape[1] == self.heads):
            return rows.reshape(-1, self.heads, 1, 1)
        heads = self.heads if rows.shape[1] == self.heads * self.keys else 1
        return rows.reshape(-1, heads, self.keys, 1)


@dataclass(frozen=True)
class LinearAttention:
    """A loop as linear attention.

    Attributes:
        rule: the operator's `update_rule`.
        layout: how the state is laid out.
        roles: the position among the loop's sequences of each operand.
        logarithm: how the logarithm of the decay is made, one of `_LOGARITHMS`.
        scale: the factor of the output.
    """

    rule: str
    layout: Layout
    roles: Mapping[str, int]
    logarithm: str
    scale: float


@dataclass(frozen=True)
class _Trial:
    """One step on random values, in float64: what went in, and what came out."""

    state: Array
    operands: tuple[Array, ...]
    next_state: Array
    output: Array


def recognise(node: ir.Node, opset: int) -> LinearAttention | str:
    """A loop as linear attention, or the reason why it is none."""
    body = node.attributes["body"].as_graph()
    sequences = node.attributes["num_scan_inputs"].as_int()
    if {*node.attributes} != {"body", "num_scan_inputs"}:
        return "does not run along its first axes"
    if len(node.inputs) - sequences != 1 or len(body.outputs) != 2:
        return "does not keep exactly one state, or does not give exactly one output"

    step = _Step.of(body, opset)
    if isinstance(step, str):
        return step
    try:
        attention = _find(step)
    except Exception as error:  # whatever onnx's reference raises
        return f"cannot be evaluated ({type(error).__name__})"

    if attention is None:
        return "computes something else"
    if not _has_logarithm(node, attention):
        return "has a decay that may be negative, and the operator takes its logarithm"
    return attention


@dataclass(frozen=True)
class _Step:
    """The body of a loop that keeps one state and gives one output.

    Attributes:
        names: its inputs, the state first.
        shapes: their shapes, at the batch that is tried.
        results: its outputs, the next state first.
        evaluator: computes them in float64.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    results: tuple[str, ...]
    evaluator: ReferenceEvaluator

    @classmethod
    def of(cls, body: ir.Graph, opset: int) -> _Step | str:
        """The step of a loop, or the reason why it cannot be tried."""
        shapes = []
        for value in body.inputs:
            shape = _sizes(value)
            if shape is None:
                return "has operands whose sizes are not known, or that are not float32"
            shapes.append(shape)

        model = _as_model(body, opset)
        if model is None:
            return "uses values that are made outside of it"
        names = tuple(str(value.name) for value in body.inputs)
        results = tuple(str(value.name) for value in body.outputs)
        return cls(names, tuple(shapes), results, ReferenceEvaluator(model))

    def tried(self, *arrays: Array) -> _Trial:
        """One step on these values of its inputs."""
        inputs = dict(zip(self.names, arrays, strict=True))
        with np.errstate(all="ignore"):
            next_state, output = map(np.asarray, self.evaluator.run([*self.results], inputs))
        return _Trial(arrays[0], arrays[1:], next_state, output)


def _find(step: _Step) -> LinearAttention | None:
    """What a step computes, if it is linear attention."""
    random = np.random.default_rng(0)
    # Every way to make a decay of an operand takes numbers between 0 and 1.
    gates = [random.uniform(0.1, 0.9, shape) for shape in step.shapes]
    trial = step.tried(*gates)

    for candidate in _candidates(trial):
        attention = _with_scale(candidate, trial)
        if attention is None:
            continue

        # A step that clips its operands, say, differs only at other numbers.
        decay = attention.roles.get("decay")
        arrays = [100 * random.standard_normal(shape) for shape in step.shapes]
        if decay is not None:
            arrays[1 + decay] = _decays(attention.logarithm, step.shapes[1 + decay], random)
        if _with_scale(attention, step.tried(*arrays)) is not None:
            return attention
    return None


def _decays(logarithm: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Numbers of all sizes of which a decay can be made in this way."""
    if logarithm == "itself":
        return 10.0 ** random.uniform(-6, 1, shape)
    return 8 * random.standard_normal(shape)


def _sizes(value: ir.Value) -> tuple[int, ...] | None:
    """The shape of a step's operand at the batch that is tried; None if it is not known."""
    if value.dtype != ir.DataType.FLOAT or value.shape is None or not value.shape.rank():
        return None
    sizes = inner_sizes(value, 1)
    if sizes is None:
        return None
    batch = dims_of(value)[0]
    return (batch if isinstance(batch, int) else _BATCH, *sizes)


def inner_sizes(value: ir.Value, outer: int) -> list[int] | None:
    """The sizes of all axes but the first `outer`; None where one of them is not known."""
    sizes = []
    for dim in dims_of(value)[outer:]:
        if not isinstance(dim, int):
            return None
        sizes.append(dim)
    return sizes


def _as_model(body: ir.Graph, opset: int) -> onnx.ModelProto | None:
    """A step as a model in float64, with the constants that it takes from the graph around it."""
    graph = ir.serde.serialize_graph(body)
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}

    for node in body:
        for operand in node.inputs:
            if operand is None or operand.producer() in set(body) or operand.name in known:
                continue
            if operand.const_value is None:
                return None
            graph.initializer.append(ir.serde.serialize_tensor(operand.const_value))
            known.add(str(operand.name))
    widen_graph(graph)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def _candidates(trial: _Trial) -> Iterator[LinearAttention]:
    """What the step may be, as far as the sizes of its operands say."""
    for layout, (rule, extra) in itertools.product(_layouts(trial.state.shape), _RULES.items()):
        roles = ("query", "key", "value", *extra)
        fitting = [_fitting(trial, layout, role) for role in roles]
        logarithms = _LOGARITHMS if "decay" in roles else ("itself",)

        for positions in itertools.product(*fitting):
            if len({*positions}) < len(trial.operands):
                continue
            assigned = dict(zip(roles, positions, strict=True))
            for logarithm in logarithms:
                yield LinearAttention(rule, layout, assigned, logarithm, 1.0)


def _layouts(shape: Sequence[int]) -> list[Layout]:
    """The ways in which a state of this shape may hold matrices."""
    if len(shape) == 4:
        _, heads, first, second = shape
    elif len(shape) == 3:
        heads, (_, first, second) = 1, shape
    else:
        return []

    layouts = [Layout(heads, first, second), Layout(heads, second, first, flipped=True)]
    if len(shape) == 3:
        # A row of keys for each channel, and one value: a selective state space.
        layouts.append(Layout(first, second, 1))
    return layouts


def _fitting(trial: _Trial, layout: Layout, role: str) -> list[int]:
    """The operands whose size fits a role."""
    widths = layout.widths(role)
    return positions_of(lambda operand: operand[0].size in widths, trial.operands)


def _with_scale(attention: LinearAttention, trial: _Trial) -> LinearAttention | None:
    """The attention with its scale, if the step computes it."""
    layout = attention.layout
    if trial.output[0].size != layout.heads * layout.values:
        return None
    state, output = _step(attention, trial)
    if not np.allclose(state, layout.matrices(trial.next_state), rtol=1e-9):
        return None

    actual = trial.output.reshape(output.shape)
    scale = float(np.vdot(output, actual) / np.vdot(output, output))
    if not np.allclose(actual, scale * output, rtol=1e-9):
        return None
    return replace(attention, scale=scale)


def _step(attention: LinearAttention, trial: _Trial) -> tuple[Array, Array]:
    """The next state and the output, by the rule of the operator; the scale is 1."""
    layout = attention.layout
    operands = {}
    for role, position in attention.roles.items():
        operands[role] = layout.per_head(role, trial.operands[position])

    state = layout.matrices(trial.state)
    if "decay" in operands:
        state = state * np.exp(_LOGARITHMS[attention.logarithm](operands["decay"]))
    update = operands["value"]
    if "beta" in operands:
        remembered = (state * operands["key"]).sum(2, keepdims=True)
        update = operands["beta"] * (update - remembered)
    state = state + operands["key"] * update
    return state, (state * operands["query"]).sum(2)


def _has_logarithm(node: ir.Node, attention: LinearAttention) -> bool:
    """Whether the decay of a loop is never negative."""
    if "decay" not in attention.roles or attention.logarithm != "itself":
        return True
    return _is_never_negative(required_operand(node, 1 + attention.roles["decay"]))


def _is_never_negative(value: ir.Value) -> bool:
    """Whether the graph shows that no element is negative."""
    return all(map(_is_part_never_negative, parts(value)))


def _is_part_never_negative(value: ir.Value) -> bool:
    producer = value.producer()
    if value.const_value is not None:
        return bool(np.all(value.const_value.numpy() >= 0))
    if producer is None:
        return False

    operands = present(producer.inputs)
    if producer.op_type in _PRODUCTS:
        return all(map(_is_never_negative, operands))
    if producer.op_type == "Sub":
        return _is_rest_of_one(*operands)
    if producer.op_type == "Clip":
        return _is_clip_never_negative(*producer.inputs)
    return producer.op_type in _NEVER_NEGATIVE


def _is_clip_never_negative(
    value: ir.Value | None, low: ir.Value | None = None, high: ir.Value | None = None
) -> bool:
    """Whether a value clipped to bounds, either of which may be absent, is never negative."""
    if high is not None and not _is_never_negative(high):
        return False
    return any(map(_is_never_negative, present([low, value])))


def _is_rest_of_one(whole: ir.Value, part: ir.Value) -> bool:
    """Whether a difference is one minus a gate, as a network writes the other side of the gate."""
    if whole.const_value is None or np.any(whole.const_value.numpy() < 1):
        return False
    gates = {gate.producer() for gate in parts(part)}
    return all(node is not None and node.op_type in _GATES for node in gates)
