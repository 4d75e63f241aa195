"""What in a graph ties a step to others: the reasons why a network may not be fed in chunks.

Whether it can is measured (`streaming`); this says why not, by the axes of what goes in and out of
each operator. A reason that is found may do no harm, as a padding that is cut off again does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import onnx_ir as ir

from ..layers import module_path

_TIME: Final = re.compile(r"\btime\b")
_REDUCTIONS: Final = {
    "ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "maximum", "ReduceMin": "minimum",
    "ReduceProd": "product", "ReduceL1": "norm", "ReduceL2": "norm", "ReduceLogSumExp": "sum",
    "ReduceSumSquare": "sum of squares", "ReduceLogSum": "sum", "ArgMax": "maximum",
    "ArgMin": "minimum", "GlobalAveragePool": "mean", "GlobalMaxPool": "maximum",
}  # fmt: skip
#: Operators whose attribute `axis` is the one that they work along, and what they do along time.
_ALONG: Final = {
    "Softmax": "a softmax over time", "LogSoftmax": "a softmax over time",
    "Hardmax": "a maximum over time", "LpNormalization": "a norm over time",
    "TopK": "the largest steps of the sequence",
}  # fmt: skip


def why_tied(graph: ir.Graph) -> str | None:
    """The first thing that ties a step to others than those before it, or to the call's beginning.

    Those that need the whole sequence come before those that need a few steps more.
    """
    found: dict[int, str] = {}
    for node in graph:
        for rank, rules in enumerate(_RULES):
            for rule in rules:
                said = rule(node)
                if said is not None and rank not in found:
                    found[rank] = f"{module_path(node) or _own_name(node)} {said}"
    return found[min(found)] if found else None


def _own_name(node: ir.Node) -> str:
    """What a node is called, where no module says whose it is; PyTorch's exporter numbers them."""
    return "forward" if not node.name or node.name.startswith("node_") else node.name


def _reduction(node: ir.Node) -> str | None:
    what = _REDUCTIONS.get(node.op_type)
    if what is None or _time_axis(node.inputs[0]) is None:
        return None
    return f"takes the {what} over time" if _time_axis(node.outputs[0]) is None else None


def _along(node: ir.Node) -> str | None:
    axis = _time_axis(node.inputs[0]) if node.inputs else None
    if node.op_type not in _ALONG or axis is None:
        return None
    default = 1 if node.op_type == "Hardmax" else -1
    along = _number(node, "axis", default) % _rank(node.inputs[0])
    return f"takes {_ALONG[node.op_type]}" if along == axis else None


def _normalisation(node: ir.Node) -> str | None:
    axis = _time_axis(node.inputs[0]) if node.inputs else None
    if axis is None:
        return None
    if node.op_type in ("LayerNormalization", "RMSNormalization"):
        over = axis >= _number(node, "axis", -1) % _rank(node.inputs[0])
    else:  # both are over all axes behind the channels, or groups of them
        over = node.op_type in ("InstanceNormalization", "GroupNormalization") and axis > 1
    return "normalises over time" if over else None


def _product(node: ir.Node) -> str | None:
    if node.op_type not in ("MatMul", "Einsum", "Attention"):
        return None
    axes = [_time_axis(value) for value in node.inputs[:2]]
    if None in axes:
        return None
    if node.op_type == "MatMul":
        a, b = (_rank(value) for value in node.inputs[:2])
        scores = axes[0] == a - 2 and axes[1] == b - 1  # (time, time)
        if not scores and not (axes[0] == a - 1 and axes[1] == b - 2):
            return None
    return "multiplies steps with one another, as attention does"


def _reverse(node: ir.Node) -> str | None:
    if node.op_type == "ReverseSequence" and _time_axis(node.inputs[0]) is not None:
        return "reverses time"
    cut = _cut(node)
    return "reverses time" if cut is not None and cut[2] is not None and cut[2] < 0 else None


def _flatten(node: ir.Node) -> str | None:
    if node.op_type not in ("Reshape", "Flatten") or _time_axis(node.inputs[0]) is None:
        return None
    joined = [text for text in _texts(node.outputs[0]) if _TIME.search(text)]
    if any(re.fullmatch(r"\d+\*time|time\*\d+", text) for text in joined):
        return "flattens time into the features"
    return None


def _count(node: ir.Node) -> str | None:
    grows = _time_axis(node.outputs[0]) is not None
    if node.op_type in ("Range", "NonZero") and grows:
        return "counts the steps from the beginning of each call"
    if node.op_type == "CumSum" and grows:
        return "sums up from the beginning of each call"
    return None


def _padding(node: ir.Node) -> str | None:
    axis = _time_axis(node.inputs[0]) if node.inputs else None
    ends = None
    if node.op_type == "Pad" and axis is not None:
        pads = _constant(node.inputs[1])
        ends = None if pads is None else pads[axis + len(pads) // 2]
    elif node.op_type in ("Conv", "MaxPool", "AveragePool") and axis is not None and axis > 1:
        own = _numbers(node, "pads")
        ends = own[axis - 2 + len(own) // 2] if own else 0
    if not ends or ends < 0:
        return None
    return f"pads {ends} {'step' if ends == 1 else 'steps'} on the right: it looks ahead"


def _window(node: ir.Node) -> str | None:
    axis = _time_axis(node.inputs[0]) if node.inputs else None
    if node.op_type not in ("Conv", "MaxPool", "AveragePool", "ConvTranspose") or not axis:
        return None
    place = axis - 2
    kernel, stride = [*_numbers(node, "kernel_shape")], _numbers(node, "strides")
    if not kernel and node.inputs[1] is not None and node.inputs[1].shape is not None:
        kernel = [size for size in node.inputs[1].shape[2:] if isinstance(size, int)]
    dilation = _numbers(node, "dilations")
    if place < 0 or place >= len(kernel):
        return None
    size = (kernel[place] - 1) * (dilation[place] if dilation else 1) + 1
    step = stride[place] if stride else 1
    if size <= step or _has_context(node.inputs[0]):
        return None
    if node.op_type == "ConvTranspose":
        return f"gives outputs that overlap by {size - step} steps, and keeps those at the end"
    return (
        f"looks at {size} steps at a time, every {step}, without as many in front: windows that "
        "overlap two chunks are lost"
        if step > 1
        else f"looks at {size} steps at a time: windows that overlap two chunks are lost"
    )


def _slice(node: ir.Node) -> str | None:
    cut = _cut(node)
    if cut is not None and (cut[0] or 0) > 0:
        return f"cuts off the first {cut[0]} steps of each call"
    axis = _time_axis(node.inputs[0]) if node.inputs else None
    if node.op_type == "Gather" and axis == _number(node, "axis", 0):
        index = _constant(node.inputs[1])
        if index is not None and len(index) == 1 and index[0] >= 0:
            return f"takes step {index[0]} of each call"
    return None


def _joined(node: ir.Node) -> str | None:
    if node.op_type != "Concat" or _time_axis(node.outputs[0]) is None:
        return None
    axis = _number(node, "axis", 0) % _rank(node.outputs[0])
    constant = any(value is not None and not _is_computed(value) for value in node.inputs)
    if axis != _time_axis(node.outputs[0]) or not constant:
        return None
    return "joins steps of its own to the sequence in each call"


#: What needs the whole sequence, depends on where a call begins, or looks a few steps further.
_RULES: Final[Sequence[Sequence[Callable[[ir.Node], str | None]]]] = (
    (_reduction, _along, _normalisation, _product, _reverse, _flatten),
    (_count, _joined),
    (_padding,),
    (_window,),
    (_slice,),
)


def _has_context(value: ir.Value | None) -> bool:
    """Whether steps of the call before, or padding, stand in front of a sequence."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in ("Transpose", "Unsqueeze", "Squeeze", "Pad"):
        if node.op_type == "Pad":
            return True
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return node is not None and node.op_type == "Concat"


def _is_computed(value: ir.Value) -> bool:
    """Whether a value depends on what the network is given, beyond its sizes."""
    node = value.producer()
    if node is None:
        return value.is_graph_input()
    if node.op_type == "Shape":
        return False
    return any(operand is not None and _is_computed(operand) for operand in node.inputs)


def _cut(node: ir.Node) -> tuple[int | None, int | None, int | None] | None:
    """Start, end and step of a slice of time, as far as they are constant."""
    if node.op_type != "Slice":
        return None
    starts, ends, axes, steps = ([*map(_constant, node.inputs[1:]), None, None, None])[:4]
    axis = _time_axis(node.inputs[0])
    if axes is None or axis is None:
        return None
    rank = _rank(node.inputs[0])
    places = [place for place, a in enumerate(axes) if a % rank == axis]
    if not places:
        return None
    place = places[0]
    return tuple(part[place] if part else None for part in (starts, ends, steps))  # type: ignore[return-value]


def _time_axis(value: ir.Value | None) -> int | None:
    """The axis that grows with time, where there is exactly one."""
    places = [i for i, text in enumerate(_texts(value)) if _TIME.search(text)]
    return places[0] if len(places) == 1 else None


def _texts(value: ir.Value | None) -> list[str]:
    shape = None if value is None else value.shape
    return [] if shape is None else [str(dim) for dim in shape]


def _rank(value: ir.Value | None) -> int:
    return len(_texts(value)) or 1


def _number(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _numbers(node: ir.Node, name: str) -> Sequence[int]:
    return node.attributes[name].as_ints() if name in node.attributes else ()


def _constant(value: ir.Value | None) -> list[int] | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else [int(number) for number in tensor.numpy().ravel()]
