# SPDX-License-Identifier: Apache-2.0
"""What in a graph ties a step to others: the reasons why a network may not be fed in chunks.

Whether it can is measured (`measure`). This module says why not, from the axes of the operands and
results of each operator. A reason alone proves nothing: padding that is cut off again does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

import onnx_ir as ir

from stateport.picking import among, instances_of, only, positions_of, present
from stateport.shown import counted

from ..graph.dataflow import SIZES, behind
from ..layers import Recurrent, module_path

_TIME: Final = re.compile(r"\btime\b")
_TIME_WITH_FEATURES: Final = re.compile(r"\d+\*time|time\*\d+")
_REDUCTIONS: Final = {
    "ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "maximum", "ReduceMin": "minimum",
    "ReduceProd": "product", "ReduceL1": "norm", "ReduceL2": "norm", "ReduceLogSumExp": "sum",
    "ReduceSumSquare": "sum of squares", "ReduceLogSum": "sum", "ArgMax": "maximum",
    "ArgMin": "minimum", "GlobalAveragePool": "mean", "GlobalMaxPool": "maximum",
}  # fmt: skip
#: Operators that work along their attribute `axis`, and what they do along time.
_ALONG: Final = {
    "Softmax": "a softmax over time", "LogSoftmax": "a softmax over time",
    "Hardmax": "a maximum over time", "LpNormalization": "a norm over time",
    "TopK": "the largest steps of the sequence",
}  # fmt: skip
#: The end of the reason of padding that is not cut off again.
LOOKS_AHEAD: Final = "on the right: it looks ahead"
_ATTENTION: Final = "multiplies steps with one another, as attention does"

#: An end from which on a slice takes all steps; PyTorch writes the largest int64.
_LATE: Final = 1 << 31

#: Says in what way a node ties a step to others, None if in none.
_Rule = Callable[[ir.Node], str | None]


class _TimeSlice(NamedTuple):
    """What a `Slice` takes of time; None for what is not constant, or not given."""

    start: int | None
    step: int | None


class _Window(NamedTuple):
    """The number of steps that a window spans, and the steps from one window to the next."""

    size: int
    stride: int


def why_tied(graph: ir.Graph) -> str | None:
    """The first thing that ties a step to others than those before it, or to the call's beginning.

    What needs the whole sequence comes before what needs a few steps more.
    """
    for rules in _RULES:
        for node in graph:
            rule = rules.get(node.op_type, _no_reason)
            reason = rule(node)
            if reason is not None:
                return f"{module_path(node) or _given_name(node)} {reason}"
    return None


def why_state_counts(layers: Sequence[Recurrent], carried: Collection[ir.Value]) -> str | None:
    """Why all steps of a call depend on where a layer starts or ends, if they do besides by it.

    `carried` are the inputs that take states.
    """
    firsts = first_states(layers)
    for layer in layers:
        name = layer.path or layer.kind.lower()
        for _, first, last in layer.states:
            if reaches_time(last, firsts):
                return f"forward uses the last state of {name} in every step"
            if any(reaches_time(value, firsts) for value in among(behind(first), carried)):
                return f"forward uses the first state of {name} in every step"
    return None


def first_states(layers: Sequence[Recurrent]) -> set[ir.Value]:
    """The values that layers start from."""
    return {first for layer in layers for _, first, _ in layer.states}


def reaches_time(value: ir.Value, firsts: Collection[ir.Value]) -> bool:
    """Whether values with time are computed from a value, which has none itself.

    Layers that start from such a value, which is one of `firsts`, do not count.
    """
    waiting, seen = [value], {value}
    while waiting:
        used = waiting.pop()
        for node in used.consumers():
            lends_its_size = not node.domain and node.op_type in SIZES
            if lends_its_size or (node.domain and used in firsts):
                continue
            if any(map(_has_time, node.outputs)):
                return True
            new = {*node.outputs} - seen
            waiting += new
            seen |= new
    return False


def sums_up_a_call(graph: ir.Graph) -> bool:
    """Whether a graph makes a value without time of one with time: a sum, the last step.

    Such a value may be a state. Or it may change all steps of a call, if only of some sequences.
    """
    for node in graph:
        if node.domain or node.op_type in SIZES:
            continue
        has_time = any(map(_has_time, present(node.inputs)))
        result = node.outputs[0]
        if has_time and result.shape is not None and not _has_time(result):
            return True
    return False


def _has_time(value: ir.Value) -> bool:
    return any(map(_TIME.search, _dim_texts(value)))


def _no_reason(_node: ir.Node) -> None:
    """The rule for all other operators."""


def _given_name(node: ir.Node) -> str:
    """The name of a node that no module made, unless PyTorch's exporter numbered it."""
    return "forward" if not node.name or node.name.startswith("node_") else node.name


def _reason_of_reduction(node: ir.Node) -> str | None:
    if _time_axis(node.inputs[0]) is None or _time_axis(node.outputs[0]) is not None:
        return None
    return f"takes the {_REDUCTIONS[node.op_type]} over time"


def _reason_of_axis(node: ir.Node) -> str | None:
    """Operators that work along one axis, if that is time."""
    default = 1 if node.op_type == "Hardmax" else -1
    axis = _axis_attribute(node, default)
    return f"takes {_ALONG[node.op_type]}" if axis == _time_axis(node.inputs[0]) else None


def _reason_of_normalisation(node: ir.Node) -> str | None:
    """Normalisations over an axis and all after it."""
    return _normalises_from(_axis_attribute(node, -1), node)


def _reason_of_channel_normalisation(node: ir.Node) -> str | None:
    """Normalisations over all axes after batch and channels."""
    return _normalises_from(2, node)


def _normalises_from(first_axis: int, node: ir.Node) -> str | None:
    time_axis = _time_axis(node.inputs[0])
    if time_axis is None or time_axis < first_axis:
        return None
    return "normalises over time"


def _reason_of_matmul(node: ir.Node) -> str | None:
    left, right = node.inputs[:2]
    by_steps = (_time_axis(left), _time_axis(right)) == (_rank(left) - 2, _rank(right) - 1)
    # It is the last axis of the left operand too, whose sizes may be unknown.
    sums_over_steps = _time_axis(right) == _rank(right) - 2
    return _ATTENTION if by_steps or sums_over_steps else None


def _reason_of_product(node: ir.Node) -> str | None:
    """Products whose axes are not known: `Einsum` and `Attention`."""
    axes = [*map(_time_axis, node.inputs[:2])]
    return None if None in axes else _ATTENTION


def _reason_of_reversal(node: ir.Node) -> str | None:
    return None if _time_axis(node.inputs[0]) is None else "reverses time"


def _reason_of_backward_slice(node: ir.Node) -> str | None:
    part = _time_slice(node)
    return "reverses time" if (part.step or 1) < 0 else None


def _reason_of_transform(node: ir.Node) -> str | None:
    """Fourier transforms; the last axis has the parts of complex numbers."""
    axes = _constant_ints(node.inputs[2]) if len(node.inputs) > 2 else None
    axis = axes[0] if axes else -2
    if axis % _rank(node.inputs[0]) != _time_axis(node.inputs[0]):
        return None
    return "needs the whole sequence for a Fourier transform, as of a long convolution"


def _reason_of_flattening(node: ir.Node) -> str | None:
    if _time_axis(node.inputs[0]) is None:
        return None

    joined = filter(_TIME_WITH_FEATURES.fullmatch, _dim_texts(node.outputs[0]))
    return "flattens time into the features" if any(joined) else None


def _reason_of_counting(node: ir.Node) -> str | None:
    if _time_axis(node.outputs[0]) is None:
        return None
    return "counts the steps from the beginning of each call"


def _reason_of_sum(node: ir.Node) -> str | None:
    if _time_axis(node.outputs[0]) is None:
        return None
    return "sums up from the beginning of each call"


def _reason_of_joining(node: ir.Node) -> str | None:
    time_axis = _time_axis(node.outputs[0])
    axis = _number(node, "axis", 0) % _rank(node.outputs[0])
    if axis != time_axis or all(map(_is_computed, filter(None, node.inputs))):
        return None
    return "joins steps of its own to the sequence in each call"


def _reason_of_pad(node: ir.Node) -> str | None:
    return _pads_at_end(_constant_ints(node.inputs[1]), _time_axis(node.inputs[0]))


def _reason_of_own_padding(node: ir.Node) -> str | None:
    """Convolutions and poolings, whose attribute `pads` is without batch and channels."""
    axis = _time_axis(node.inputs[0])
    if axis is None or axis < 2:
        return None
    return _pads_at_end(_numbers(node, "pads"), axis - 2)


def _pads_at_end(pads: Sequence[int] | None, axis: int | None) -> str | None:
    """`pads` are those before each axis, then those after each axis."""
    if not pads or axis is None:
        return None

    steps = pads[axis + len(pads) // 2]
    if steps <= 0:
        return None
    return f"pads {counted(steps, 'step')} {LOOKS_AHEAD}"


def _reason_of_window(node: ir.Node) -> str | None:
    size, stride = _time_window(node)
    if size <= stride or _has_context(node.inputs[0]):
        return None

    if node.op_type == "ConvTranspose":
        return f"gives outputs that overlap by {size - stride} steps, and keeps those at the end"
    spacing = f", every {stride}, without as many in front" if stride > 1 else ""
    return f"looks at {size} steps at a time{spacing}: windows that overlap two chunks are lost"


def _time_window(node: ir.Node) -> _Window:
    """The window of a convolution or pooling over time; of one step if it has none."""
    axis = _time_axis(node.inputs[0])
    kernel = _kernel_shape(node)
    if axis is None or axis - 2 not in range(len(kernel)):
        return _Window(1, 1)

    position = axis - 2  # the first two axes are batch and channels
    ones = [1] * len(kernel)
    stride = (_numbers(node, "strides") or ones)[position]
    dilation = (_numbers(node, "dilations") or ones)[position]
    return _Window((kernel[position] - 1) * dilation + 1, stride)


def _kernel_shape(node: ir.Node) -> Sequence[int]:
    """The sizes of a kernel, from its attribute or its weights; empty if unknown."""
    sizes = _numbers(node, "kernel_shape")
    weights = node.inputs[1] if len(node.inputs) > 1 else None
    if sizes or weights is None or weights.shape is None:
        return sizes
    return instances_of(int, weights.shape[2:])


def _reason_of_slice(node: ir.Node) -> str | None:
    start = _time_slice(node).start or 0
    if start <= 0:
        return None
    first = "first step" if start == 1 else f"first {start} steps"
    if _takes_first_steps_besides(node):
        return f"computes the {first} of each call apart from the others"
    return f"cuts off the {first} of each call"


def _takes_first_steps_besides(node: ir.Node) -> bool:
    """Whether something takes the first steps alone of the sequence that a node slices."""
    sequence = node.inputs[0]
    users = () if sequence is None else sequence.consumers()
    for user in users:
        if user.op_type == "Gather" and _reason_of_gather(user) is not None:
            return True
        if user.op_type == "Slice" and _ends_at_a_step(user):
            return True
    return False


def _ends_at_a_step(node: ir.Node) -> bool:
    """Whether a `Slice` ends after a fixed number of steps, counted from the first."""
    ends = _constant_ints(node.inputs[2]) or []
    is_over_time = _time_slice(node) != _TimeSlice(None, None)
    return is_over_time and len(ends) == 1 and 0 < ends[0] < _LATE


def _reason_of_gather(node: ir.Node) -> str | None:
    if _number(node, "axis", 0) != _time_axis(node.inputs[0]):
        return None

    index = _constant_ints(node.inputs[1])
    if index is None or len(index) != 1 or index[0] < 0:
        return None
    return f"takes step {index[0]} of each call"


#: The rules of operators that need the whole sequence, that depend on where a call begins, and that
#: look a few steps further.
_RULES: Final[Sequence[Mapping[str, _Rule]]] = (
    {
        **dict.fromkeys(_REDUCTIONS, _reason_of_reduction),
        **dict.fromkeys(_ALONG, _reason_of_axis),
        "LayerNormalization": _reason_of_normalisation,
        "RMSNormalization": _reason_of_normalisation,
        "InstanceNormalization": _reason_of_channel_normalisation,
        "GroupNormalization": _reason_of_channel_normalisation,
        "MatMul": _reason_of_matmul,
        "Einsum": _reason_of_product,
        "Attention": _reason_of_product,
        "ReverseSequence": _reason_of_reversal,
        "Slice": _reason_of_backward_slice,
        "DFT": _reason_of_transform,
        "Reshape": _reason_of_flattening,
        "Flatten": _reason_of_flattening,
    },
    {
        "Range": _reason_of_counting,
        "NonZero": _reason_of_counting,
        "CumSum": _reason_of_sum,
        "Concat": _reason_of_joining,
    },
    {
        "Pad": _reason_of_pad,
        "Conv": _reason_of_own_padding,
        "MaxPool": _reason_of_own_padding,
        "AveragePool": _reason_of_own_padding,
    },
    {
        "Conv": _reason_of_window,
        "MaxPool": _reason_of_window,
        "AveragePool": _reason_of_window,
        "ConvTranspose": _reason_of_window,
    },
    {
        "Slice": _reason_of_slice,
        "Gather": _reason_of_gather,
    },
)


def _has_context(value: ir.Value | None) -> bool:
    """Whether a sequence starts with steps of the call before, or with padding."""
    node = None if value is None else value.producer()
    if node is None:
        return False
    if node.op_type in ("Transpose", "Unsqueeze", "Squeeze"):
        return _has_context(node.inputs[0])
    return node.op_type in ("Pad", "Concat")


def _is_computed(value: ir.Value) -> bool:
    """Whether a value depends on more of the network's inputs than their sizes."""
    node = value.producer()
    if node is None:
        return value.is_graph_input()
    if node.op_type == "Shape":
        return False
    return any(map(_is_computed, present(node.inputs)))


def _time_slice(node: ir.Node) -> _TimeSlice:
    """What a `Slice` takes of time."""
    operands = [*map(_constant_ints, node.inputs[1:])]
    starts, _, axes, steps = [*operands, None, None][:4]

    time_axis, rank = _time_axis(node.inputs[0]), _rank(node.inputs[0])
    for position, axis in enumerate(axes or []):
        if axis % rank == time_axis:
            start = starts[position] if starts else None
            step = steps[position] if steps else None
            return _TimeSlice(start, step)
    return _TimeSlice(None, None)


def _time_axis(value: ir.Value | None) -> int | None:
    """The axis that grows with time, if exactly one does."""
    axes = positions_of(_TIME.search, _dim_texts(value))
    return only(axes)


def _dim_texts(value: ir.Value | None) -> list[str]:
    shape = None if value is None else value.shape
    return [] if shape is None else [*map(str, shape)]


def _rank(value: ir.Value | None) -> int:
    return len(_dim_texts(value)) or 1


def _axis_attribute(node: ir.Node, default: int) -> int:
    """The attribute `axis`, counted from the first axis of the operand."""
    return _number(node, "axis", default) % _rank(node.inputs[0])


def _number(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _numbers(node: ir.Node, name: str) -> Sequence[int]:
    return node.attributes[name].as_ints() if name in node.attributes else ()


def _constant_ints(value: ir.Value | None) -> list[int] | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else [*map(int, tensor.numpy().ravel())]
