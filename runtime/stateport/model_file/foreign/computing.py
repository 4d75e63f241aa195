"""What operators that compute make of time: by element, along axes, in windows, in products.

The wording is that of the exporter's reasons, which come from graphs of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from .dims import Dim, Dims, Value, broadcast, grows, time_of
from .moving import axes_of
from .nodes import Node
from .walk import Call, Rule, like

_REDUCTIONS: Final = {
    "ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "maximum", "ReduceMin": "minimum",
    "ReduceProd": "product", "ReduceL1": "norm", "ReduceL2": "norm", "ReduceLogSumExp": "sum",
    "ReduceSumSquare": "sum of squares", "ReduceLogSum": "sum", "ArgMax": "maximum",
    "ArgMin": "minimum",
}  # fmt: skip
#: Operators that work along one axis: what they do, and the axis where none is named.
_ALONG: Final = {
    "Softmax": ("takes a softmax over time", -1), "LogSoftmax": ("takes a softmax over time", -1),
    "Hardmax": ("takes a maximum over time", -1), "LpNormalization": ("takes a norm over time", -1),
    "TopK": ("takes the largest steps of the sequence", -1),
    "CumSum": ("sums up from the beginning of each call", 0),
}  # fmt: skip
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
_NORMS: Final = (
    "LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization",
    "MeanVarianceNormalization",
)  # fmt: skip
_WINDOWS: Final = ("Conv", "ConvInteger", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
_POOLS: Final = ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")


def _elementwise(call: Call) -> Sequence[Value]:
    shapes = [value.dims for value in call.values]
    if call.node.operator in ("BatchNormalization", "Clip", "Dropout", "LRN"):
        shapes = shapes[:1]
    dims = broadcast(shapes)
    _check_spread(call, dims)
    return [like(call, dims)]


def _check_spread(call: Call, dims: Dims | None) -> None:
    """Notes where what a whole call gives, or a state as it was before, goes into each step."""
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
    """Notes what works along time; `axes` are those that it works along, None for unknown ones."""
    time = time_of(value.dims)
    if time is not None and axes is not None:
        if time in axes:
            call.tie(what)
    elif call.may_have_time(value):
        call.doubt(f"may work along time: if so, it {what}")


def _reduction(call: Call) -> Sequence[Value]:
    value, what = call.value(0), f"takes the {_REDUCTIONS[call.node.operator]} over time"
    named: Dims | None
    if call.node.operator in ("ArgMax", "ArgMin"):
        named = (call.node.number("axis", 0),)
    else:
        named = axes_of(call, "axes", 1)
        if not named and not call.has(1):
            named = tuple(range(len(value.dims or ()))) if value.dims is not None else None
    if value.dims is None or named is None or not value.dims:
        _check_along(call, value, None, what)
        return [like(call, None)]
    axes = {axis % len(value.dims) for axis in named if isinstance(axis, int)}
    _check_along(call, value, axes, what)
    kept = call.node.number("keepdims", 1)
    reduced = [1 if axis in axes else dim for axis, dim in enumerate(value.dims)]
    left = tuple(dim for axis, dim in enumerate(reduced) if kept or axis not in axes)
    return [like(call, left)]


def _along(call: Call) -> Sequence[Value]:
    value, (what, usual) = call.value(0), _ALONG[call.node.operator]
    axis: Dim = call.node.number("axis", usual)
    flat = call.node.operator in ("Softmax", "LogSoftmax", "Hardmax") and call.walk.opset < 13
    if flat:
        axis = call.node.number("axis", 1)
    if call.node.operator == "CumSum":
        axis = (call.value(1).content or (None,))[0]
    axes = None
    if value.dims and isinstance(axis, int):
        first = axis % len(value.dims)
        axes = [*range(first, len(value.dims))] if flat else [first]
    _check_along(call, value, axes, what)
    dims = value.dims
    if call.node.operator == "TopK" and dims and axes:
        dims = (*dims[: axes[0]], None, *dims[axes[0] + 1 :])
    return [like(call, dims)] * max(len(call.node.outputs), 1)


def _normalisation(call: Call) -> Sequence[Value]:
    value, node = call.value(0), call.node
    axes = None
    if value.dims:
        count = len(value.dims)
        if node.operator in ("LayerNormalization", "RMSNormalization"):
            axes = [*range(node.number("axis", -1) % count, count)]
        elif node.operator == "MeanVarianceNormalization":
            axes = [axis % count for axis in node.numbers("axes") or (0, 2, 3)]
        else:  # over all axes behind the channels, or groups of them
            axes = [*range(2, count)]
    _check_along(call, value, axes, "normalises over time")
    return [like(call, value.dims)]


def _product(call: Call) -> Sequence[Value]:
    a, b = call.value(0).dims, call.value(1).dims
    if call.node.operator == "Gemm":
        a = a[::-1] if a is not None and call.node.number("transA", 0) else a
        b = b[::-1] if b is not None and call.node.number("transB", 0) else b
    if not a or not b:
        if call.is_uncertain(call.value(0)) or call.is_uncertain(call.value(1)):
            call.doubt("may multiply steps with one another")
        return [like(call, a if time_of(a) is not None and a and not grows(a[-1]) else None)]
    row, column = (len(a) > 1 and grows(a[-2])), (len(b) > 1 and grows(b[-1]))
    inner = grows(a[-1]) or grows(b[-2] if len(b) > 1 else b[-1])
    if inner or (row and column):
        call.tie("multiplies steps with one another, as attention does")
    batch = broadcast([a[:-2], b[:-2]]) or ()
    dims = (*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))
    _check_spread(call, dims)
    return [like(call, dims)]


def _attention(call: Call) -> Sequence[Value]:
    if any(call.may_have_time(value) for value in call.values):
        call.tie("multiplies steps with one another, as attention does")
    return ()


def _einsum(call: Call) -> Sequence[Value]:
    if sum(call.is_fed(value) for value in call.values) > 1:
        call.doubt("may multiply steps with one another")
    elif any(call.is_fed(value) for value in call.values):
        call.doubt("may sum over time")
    return ()


def _window(call: Call) -> Sequence[Value]:
    value = call.value(0)
    kernel = call.node.numbers("kernel_shape") or _kernel_of(call)
    if value.dims is None or (time_of(value.dims) is None and None in value.dims):
        if call.may_have_time(value) and any(size != 1 for size in kernel or (None,)):
            call.doubt("may look at several steps at a time")
        return [like(call, None)]
    time, rank = time_of(value.dims), len(value.dims)
    if time is not None and time >= 2:
        _check_window(call, value, kernel, time - 2, rank - 2)
    elif time == 1:
        call.tie("mixes the steps of each call")
    channels = None if kernel is None or not call.has(1) else call.value(1).dims
    out = channels[0] if channels and call.node.operator == "Conv" else None
    pools = call.node.operator.endswith("Pool")
    dims = (
        *value.dims[:1],
        *(value.dims[1:2] if pools else (out,)),
        *(dim if grows(dim) else None for dim in value.dims[2:]),
    )
    return [like(call, dims)] * max(len(call.node.outputs), 1)


def _kernel_of(call: Call) -> tuple[int, ...] | None:
    dims = call.value(1).dims
    sizes = tuple(dim for dim in (dims or ())[2:] if isinstance(dim, int))
    return sizes if dims is not None and len(sizes) == len(dims) - 2 else None


def _check_window(
    call: Call, value: Value, kernel: Sequence[int] | None, place: int, count: int
) -> None:
    """Notes windows over time that reach into the steps of another call."""
    if kernel is None or len(kernel) <= place:
        call.doubt("may look at several steps at a time")
        return
    node = call.node
    dilation, stride = (_at(node, name, place) for name in ("dilations", "strides"))
    size, step = (kernel[place] - 1) * dilation + 1, stride
    pads = node.numbers("pads")
    padded = [pads[i] for i in (place, place + count) if i < len(pads) and pads[i] != 0]
    if node.operator == "ConvTranspose":
        if size > step:
            call.tie(
                f"gives outputs that overlap by {size - step} steps, and keeps those at the end"
            )
    elif padded or (size > 1 and node.text("auto_pad", "NOTSET").startswith("SAME")):
        call.tie("pads time in each call")
    elif size > step and value.context:
        call.doubt(f"looks at {size} steps at a time")
    elif size > step:
        call.tie(f"looks at {size} steps at a time: windows that overlap two chunks are lost")
    if step > 1:
        call.doubt(f"takes {step} steps at a time")


def _at(node: Node, name: str, place: int) -> int:
    numbers = node.numbers(name)
    return numbers[place] if place < len(numbers) else 1


def _pool(call: Call) -> Sequence[Value]:
    value = call.value(0)
    _check_along(
        call,
        value,
        None if value.dims is None else range(2, len(value.dims)),
        "takes the mean over time",
    )
    return [
        like(call, None if value.dims is None else (*value.dims[:2], *[1] * len(value.dims[2:])))
    ]


def _dynamically_quantized(call: Call) -> Sequence[Value]:
    if call.may_have_time(call.value(0)):
        call.doubt("rounds by the range of each call")
    return [like(call, call.value(0).dims), Value(()), Value(())]


COMPUTING: Final[dict[str, Rule]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(_ALONG, _along),
    **dict.fromkeys(_WINDOWS, _window),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(("MatMul", "Gemm", "MatMulInteger"), _product),
    **dict.fromkeys(_NORMS, _normalisation),
    **dict.fromkeys(
        ("Attention", "com.microsoft::Attention", "com.microsoft::MultiHeadAttention"), _attention
    ),
    "Einsum": _einsum,
    "DynamicQuantizeLinear": _dynamically_quantized,
}
