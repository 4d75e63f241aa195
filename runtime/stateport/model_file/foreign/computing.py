# SPDX-License-Identifier: Apache-2.0
"""What operators that compute do to time: by element, along axes, in windows, in products.

The exporter gives the same reasons in the same words, from the graphs that it writes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from ...picking import instances_of
from .dims import (
    Dim,
    Dims,
    Value,
    axes_from_front,
    broadcast,
    grows,
    may_grow,
    time_of,
    with_axis,
    without_axes,
)
from .moving import axes_of, time_alone
from .nodes import Node
from .walk import Call, Rule, like

_REDUCTIONS: Final = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "maximum",
    "ReduceMin": "minimum",
    "ReduceProd": "product",
    "ReduceL1": "norm",
    "ReduceL2": "norm",
    "ReduceLogSumExp": "sum",
    "ReduceSumSquare": "sum of squares",
    "ReduceLogSum": "sum",
    "ArgMax": "maximum",
    "ArgMin": "minimum",
}
#: Operators that work along one axis: what they do, and their default axis.
_ALONG: Final = {
    "Softmax": ("takes a softmax over time", -1),
    "LogSoftmax": ("takes a softmax over time", -1),
    "Hardmax": ("takes a maximum over time", -1),
    "LpNormalization": ("takes a norm over time", -1),
    "TopK": ("takes the largest steps of the sequence", -1),
    "CumSum": ("sums up from the beginning of each call", 0),
}
#: Before opset 13, these worked along all axes from one on.
_FLATTENING: Final = ("Softmax", "LogSoftmax", "Hardmax")
_ELEMENTWISE: Final = (
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization",
    "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CastLike", "Ceil", "Celu",
    "Clip", "Cos", "Cosh", "DequantizeLinear", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp",
    "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf", "IsNaN",
    "LRN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul",
    "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu",
    "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum",
    "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
)  # fmt: skip
#: Element-wise operators whose other operands have no time axis.
_OF_FIRST_OPERAND: Final = ("BatchNormalization", "Clip", "Dropout", "LRN")
_NORMS: Final = (
    "LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization",
    "MeanVarianceNormalization",
)  # fmt: skip
_WINDOWS: Final = ("Conv", "ConvInteger", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
_POOLS: Final = ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")


_MIXES_STEPS: Final = "multiplies steps with one another, as attention does"


def _elementwise(call: Call) -> Sequence[Value]:
    shapes = [value.dims for value in call.values]
    if call.node.operator in _OF_FIRST_OPERAND:
        shapes = shapes[:1]

    dims = broadcast(shapes)
    _check_spread(call, dims)
    return [like(call, dims)]


def _check_spread(call: Call, dims: Dims | None) -> None:
    """Notes an operand without time that goes into each step of a result with time.

    It may be computed from the whole call, or be a state as it was before the call.
    """
    if time_of(dims) is None:
        return

    for value in call.values:
        if value.dims is None or time_of(value.dims) is not None:
            continue
        if call.is_fed(value):
            call.tie("gives each step what the whole call says")
        elif call.is_state(value):
            call.doubt("gives each step of a call the same state")


def _check_along(call: Call, value: Value, axes: Collection[int] | None, what: str) -> None:
    """Notes an operator that works along time; `axes` is None where its axes are unknown."""
    time = time_of(value.dims)
    if time is not None and axes is not None:
        if time in axes:
            call.tie(what)
    elif call.may_have_time(value):
        call.doubt(f"may work along time: if so, it {what}")


def _reduction(call: Call) -> Sequence[Value]:
    value = call.value(0)
    dims = value.dims
    what = f"takes the {_REDUCTIONS[call.node.operator]} over time"

    named_axes = _reduced_axes(call)
    if not dims or named_axes is None:
        _check_along(call, value, None, what)
        return [like(call, None)]

    axes = axes_from_front(named_axes, len(dims))
    _check_along(call, value, axes, what)
    if not call.node.number("keepdims", 1):
        return [like(call, without_axes(dims, axes))]

    for axis in axes:
        dims = with_axis(dims, axis, 1)
    return [like(call, dims)]


def _reduced_axes(call: Call) -> Dims | None:
    """The axes that a reduction takes away, all by default; None where they are unknown."""
    if call.node.operator in ("ArgMax", "ArgMin"):
        return (call.node.number("axis", 0),)

    axes = axes_of(call, "axes", 1)
    if axes or call.has(1):
        return axes

    dims = call.value(0).dims
    if dims is None:
        return None
    return tuple(range(len(dims)))


def _along_axis(call: Call) -> Sequence[Value]:
    value = call.value(0)
    dims = value.dims
    what, _ = _ALONG[call.node.operator]
    axes = _axes_worked_along(call)
    _check_along(call, value, axes, what)

    if call.node.operator == "TopK" and dims and axes:
        dims = with_axis(dims, axes[0], None)
    return [like(call, dims)] * max(len(call.node.outputs), 1)


def _axes_worked_along(call: Call) -> list[int] | None:
    """The axes that an operator of `_ALONG` works along; None where they are unknown."""
    operator = call.node.operator
    dims = call.value(0).dims
    flattens = operator in _FLATTENING and call.walk.opset < 13

    axis: Dim
    if operator == "CumSum":
        axis = call.value(1).first
    else:
        _, default = _ALONG[operator]
        axis = call.node.number("axis", 1 if flattens else default)
    if not dims or not isinstance(axis, int):
        return None

    first = axis % len(dims)
    return list(range(first, len(dims))) if flattens else [first]


def _normalisation(call: Call) -> Sequence[Value]:
    value = call.value(0)
    axes = _normalised_axes(call.node, len(value.dims)) if value.dims else None
    _check_along(call, value, axes, "normalises over time")
    return [like(call, value.dims)]


def _normalised_axes(node: Node, rank: int) -> Collection[int]:
    if node.operator in ("LayerNormalization", "RMSNormalization"):
        return range(node.number("axis", -1) % rank, rank)
    if node.operator == "MeanVarianceNormalization":
        return axes_from_front(node.numbers("axes") or (0, 2, 3), rank)

    # The others normalise over all axes behind the channels, or behind groups of channels.
    return range(2, rank)


def _product(call: Call) -> Sequence[Value]:
    a = _factor_dims(call, 0, "transA")
    b = _factor_dims(call, 1, "transB")
    if not a or not b:
        return [_product_of_unknown(call, a)]

    if _multiplies_steps(a, b):
        call.tie(_MIXES_STEPS)

    batch = broadcast([a[:-2], b[:-2]]) or ()
    rows = a[-2:-1]
    columns = b[-1:] if len(b) > 1 else ()
    dims = (*batch, *rows, *columns)
    _check_spread(call, dims)
    return [like(call, dims)]


def _factor_dims(call: Call, position: int, transposition: str) -> Dims | None:
    """The dimensions of a factor, as it is multiplied."""
    dims = call.value(position).dims
    is_transposed = call.node.operator == "Gemm" and call.node.number(transposition, 0)
    return dims[::-1] if dims is not None and is_transposed else dims


def _product_of_unknown(call: Call, a: Dims | None) -> Value:
    """A product in which the dimensions of a factor are unknown."""
    if call.is_uncertain(call.value(0)) or call.is_uncertain(call.value(1)):
        call.doubt("may multiply steps with one another")

    if a and time_of(a) is not None and not grows(a[-1]):
        return like(call, a)
    return like(call, None)


def _multiplies_steps(a: Dims, b: Dims) -> bool:
    """Whether a product sums over time, or multiplies each step of one factor with all others."""
    b_is_matrix = len(b) > 1
    rows_grow = len(a) > 1 and grows(a[-2])
    columns_grow = b_is_matrix and grows(b[-1])

    b_inner = b[-2] if b_is_matrix else b[-1]
    inner_grows = grows(a[-1]) or grows(b_inner)
    return inner_grows or (rows_grow and columns_grow)


def _attention(call: Call) -> Sequence[Value]:
    if any(map(call.may_have_time, call.values)):
        call.tie(_MIXES_STEPS)
    return ()


def _einsum(call: Call) -> Sequence[Value]:
    fed = sum(map(call.is_fed, call.values))
    if fed > 1:
        call.doubt("may multiply steps with one another")
    elif fed == 1:
        call.doubt("may sum over time")
    return ()


def _window(call: Call) -> Sequence[Value]:
    value = call.value(0)
    kernel = call.node.numbers("kernel_shape") or _kernel_of_weights(call)
    if value.dims is None or may_grow(value.dims):
        if call.may_have_time(value) and not _is_pointwise(kernel):
            call.doubt("may look at several steps at a time")
        return [like(call, None)]

    time = time_of(value.dims)
    if time == 1:
        call.tie("mixes the steps of each call")
    elif time is not None and time >= 2:
        _check_window(call, value, kernel, time - 2)

    channels = _window_channels(call, value.dims, kernel)
    dims = (*value.dims[:1], *channels, *time_alone(value.dims[2:]))
    return [like(call, dims)] * max(len(call.node.outputs), 1)


def _kernel_of_weights(call: Call) -> tuple[int, ...] | None:
    """The size of the kernel from the shape of the weights; None where it is unknown."""
    dims = call.value(1).dims
    if dims is None:
        return None

    sizes = tuple(instances_of(int, dims[2:]))
    if len(sizes) == len(dims) - 2:
        return sizes
    return None


def _is_pointwise(kernel: Sequence[int] | None) -> bool:
    """Whether a kernel is known to see one position at a time."""
    return set(kernel or ()) == {1}


def _window_channels(call: Call, dims: Dims, kernel: Sequence[int] | None) -> Dims:
    """The channels of the result: those of `dims` for pooling, those of the weights for Conv."""
    if call.node.operator.endswith("Pool"):
        return dims[1:2]

    weights = call.value(1).dims
    has_weights = kernel is not None and call.has(1)
    if call.node.operator == "Conv" and has_weights and weights:
        return weights[:1]
    return (None,)


def _check_window(call: Call, value: Value, kernel: Sequence[int] | None, axis: int) -> None:
    """Notes windows over time that reach into the steps of another call.

    `axis` is the time axis, counted without the batch and the channels.
    """
    if kernel is None or len(kernel) <= axis:
        call.doubt("may look at several steps at a time")
        return

    stride = _number_at(call.node, "strides", axis, 1)
    dilation = _number_at(call.node, "dilations", axis, 1)
    size = (kernel[axis] - 1) * dilation + 1
    spatial_axes = len(value.dims or ()) - 2

    if _pads_axis(call.node, axis, spatial_axes, size):
        call.tie("pads time in each call")
    elif size > stride:
        _check_overlap(call, value, size, stride)
    if stride > 1:
        call.doubt(f"takes {stride} steps at a time")


def _check_overlap(call: Call, value: Value, size: int, stride: int) -> None:
    if call.node.operator == "ConvTranspose":
        overlap = size - stride
        call.tie(f"gives outputs that overlap by {overlap} steps, and keeps those at the end")
    elif value.context:
        call.doubt(f"looks at {size} steps at a time")
    else:
        call.tie(f"looks at {size} steps at a time: windows that overlap two chunks are lost")


def _pads_axis(node: Node, axis: int, spatial_axes: int, size: int) -> bool:
    """Whether a window operator pads an axis of its operand."""
    if node.operator == "ConvTranspose":  # its pads are cut off the result
        return False

    # The list has the padding in front of all axes, then that behind all axes.
    before = _number_at(node, "pads", axis, 0)
    after = _number_at(node, "pads", axis + spatial_axes, 0)
    if before != 0 or after != 0:
        return True

    return size > 1 and node.text("auto_pad", "NOTSET").startswith("SAME")


def _number_at(node: Node, name: str, position: int, default: int) -> int:
    """One integer of a list in an attribute."""
    numbers = node.numbers(name)
    if position < len(numbers):
        return numbers[position]
    return default


def _global_pool(call: Call) -> Sequence[Value]:
    value = call.value(0)
    dims = value.dims
    what = "takes the mean over time"
    if dims is None:
        _check_along(call, value, None, what)
        return [like(call, None)]

    _check_along(call, value, range(2, len(dims)), what)
    ones = [1] * len(dims[2:])
    return [like(call, (*dims[:2], *ones))]


def _dynamic_quantization(call: Call) -> Sequence[Value]:
    value = call.value(0)
    if call.may_have_time(value):
        call.doubt("rounds by the range of each call")
    scale = zero_point = Value(())
    return [like(call, value.dims), scale, zero_point]


_PRODUCTS: Final = ("MatMul", "Gemm", "MatMulInteger")
_ATTENTIONS: Final = (
    "Attention",
    "com.microsoft::Attention",
    "com.microsoft::MultiHeadAttention",
)

COMPUTING: Final[dict[str, Rule]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(_ALONG, _along_axis),
    **dict.fromkeys(_WINDOWS, _window),
    **dict.fromkeys(_POOLS, _global_pool),
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys(_NORMS, _normalisation),
    **dict.fromkeys(_ATTENTIONS, _attention),
    "Einsum": _einsum,
    "DynamicQuantizeLinear": _dynamic_quantization,
}
