"""What operators that move data, and those that compute sizes, make of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from .dims import Dim, Dims, Value, grows, merged, reshaped, rest, time_of
from .nodes import Tensor
from .walk import Call, Rule, like

#: An end of a slice beyond this is the end of the sequence.
_END: Final = 2**30


def _identity(call: Call) -> Sequence[Value]:
    return [call.value(0)]


def _constant(call: Call) -> Sequence[Value]:
    value = call.node.attributes.get("value")
    if isinstance(value, Tensor):
        return [Value(value.shape, content=value.numbers)]
    number, numbers = call.node.attributes.get("value_int"), call.node.numbers("value_ints")
    if isinstance(number, int):
        return [Value((), content=(number,))]
    return [Value((len(numbers),), content=numbers) if numbers else Value(())]


def _shape(call: Call) -> Sequence[Value]:
    dims = call.value(0).dims
    if dims is None:
        return [Value((None,))]
    part = dims[call.node.number("start", 0) : call.node.number("end", len(dims))]
    return [Value((len(part),), content=part)]


def _size(call: Call) -> Sequence[Value]:
    return [Value((), content=(rest(call.value(0).dims, ()),))]


def _filled(call: Call) -> Sequence[Value]:
    return [Value(call.value(0).content)]


def _range(call: Call) -> Sequence[Value]:
    limit = (call.value(1).content or (None,))[0]
    if grows(limit):
        call.tie("counts the steps from the beginning of each call")
    return [like(call, ("~time",) if grows(limit) else (None,))]


def _transpose(call: Call) -> Sequence[Value]:
    dims, order = call.value(0).dims, call.node.numbers("perm")
    if dims is None:
        return [replace(call.value(0), content=None)]
    order = order or tuple(reversed(range(len(dims))))
    if sorted(order) != [*range(len(dims))]:
        return [like(call, None)]
    return [replace(call.value(0), dims=tuple(dims[axis] for axis in order))]


def axes_of(call: Call, name: str, place: int) -> Dims | None:
    """The axes that an operator works along: an attribute, or an operand in newer opsets."""
    return call.node.numbers(name) or call.value(place).content


def _unsqueeze(call: Call) -> Sequence[Value]:
    value, axes = call.value(0), axes_of(call, "axes", 1)
    if value.dims is None or axes is None:
        return [replace(value, dims=None)]
    count = len(value.dims) + len(axes)
    places = {axis % count for axis in axes if isinstance(axis, int)}
    left = iter(value.dims)
    return [
        replace(value, dims=tuple(1 if i in places else next(left, None) for i in range(count)))
    ]


def _squeeze(call: Call) -> Sequence[Value]:
    value, axes = call.value(0), axes_of(call, "axes", 1)
    dims = value.dims
    if dims is None or not dims or (axes is None and None in dims):
        return [replace(value, dims=None if dims is None or None in dims else dims)]
    if axes is None:
        places = {axis for axis, dim in enumerate(dims) if dim == 1}
    else:
        places = {axis % len(dims) for axis in axes if isinstance(axis, int)}
    return [replace(value, dims=tuple(d for axis, d in enumerate(dims) if axis not in places))]


def _reshape(call: Call) -> Sequence[Value]:
    value = call.value(0)
    content = call.node.numbers("shape") or call.value(1).content
    dims = reshaped(value.dims, content)
    _check_order(call, value.dims, dims)
    return [replace(value, dims=dims, content=value.content if dims == () else None)]


def _check_order(call: Call, before: Dims | None, after: Dims | None) -> None:
    """Notes a reshaping that mixes steps with other axes: what stands before time has changed."""
    old, new = time_of(before), time_of(after)
    if before is None or after is None or old is None or new is None:
        return
    if before[old] == after[new] == "time":
        fronts = rest(before[:old], ()), rest(after[:new], ())
        if None not in fronts and fronts[0] != fronts[1]:
            call.tie("mixes the steps of a call with its other axes")


def _flatten(call: Call) -> Sequence[Value]:
    dims = call.value(0).dims
    if dims is None:
        return [like(call, None)]
    axis = call.node.number("axis", 1) % (len(dims) + 1)
    return [like(call, (_joined(dims[:axis]), _joined(dims[axis:])))]


def _joined(dims: Dims) -> Dim:
    product = rest(dims, ())
    return "~time" if product is None and any(map(grows, dims)) else product


def _expand(call: Call) -> Sequence[Value]:
    dims, content = call.value(0).dims, call.value(1).content
    if content is None:
        return [like(call, dims if time_of(dims) is not None else None)]
    if dims is None:
        return [like(call, None)]
    length = max(len(dims), len(content))
    wide = [(1,) * (length - len(part)) + part for part in (dims, content)]
    return [like(call, tuple(a if b == 1 else b for a, b in zip(*wide, strict=True)))]


def _tile(call: Call) -> Sequence[Value]:
    dims = call.value(0).dims
    return [like(call, None if dims is None else tuple(d if grows(d) else None for d in dims))]


def _concat(call: Call) -> Sequence[Value]:
    shapes = [value.dims for value in call.values]
    dims = shapes[0] if shapes else None
    for other in shapes[1:]:
        dims = merged(dims, other)
    if not dims:
        return [like(call, None)]
    axis = call.node.number("axis", 0) % len(dims)
    parts = [shape[axis] for shape in shapes if shape is not None]
    if any(map(grows, parts)):
        return [_longer(call, dims, axis)]
    sizes = [size for size in parts if isinstance(size, int)]
    whole = sum(sizes) if len(sizes) == len(parts) else None
    return [like(call, (*dims[:axis], whole, *dims[axis + 1 :]))]


def _longer(call: Call, dims: Dims, axis: int) -> Value:
    """A sequence with something in front of it, or behind."""
    own = [v for v in call.values if v.dims is None or not grows(v.dims[axis])]
    context = bool(own) and all(call.is_state(value) for value in own)
    if context:
        call.doubt("puts steps of the call before in front")
    elif own:
        call.tie("joins steps of its own to the sequence in each call")
    else:
        call.doubt("joins sequences")
    return like(call, (*dims[:axis], "~time", *dims[axis + 1 :]), context=context)


def _split(call: Call) -> Sequence[Value]:
    dims, count = call.value(0).dims, len(call.node.outputs)
    if dims is None or not dims:
        return [like(call, None)] * count
    axis = call.node.number("axis", 0) % len(dims)
    if grows(dims[axis]):
        call.tie("splits the steps of each call")
    return [like(call, (*dims[:axis], None, *dims[axis + 1 :]))] * count


def _gather(call: Call) -> Sequence[Value]:
    value, index = call.value(0), call.value(1)
    if value.dims is None or not value.dims or index.dims is None:
        if call.is_uncertain(value) or call.is_uncertain(index):
            call.doubt("may take steps by their number")
        return [like(call, None)]
    axis = call.node.number("axis", 0) % len(value.dims)
    if grows(value.dims[axis]) and not index.counter and index.content != (-1,):
        call.tie("takes steps by their number in each call")
    return [like(call, (*value.dims[:axis], *index.dims, *value.dims[axis + 1 :]))]


def _slice(call: Call) -> Sequence[Value]:
    value = call.value(0)
    parts = [
        axes_of(call, name, i) for i, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    ]
    starts, ends, axes, steps = parts
    if starts is None or ends is None:
        if call.may_have_time(value):
            call.doubt("may cut the steps of each call")
        return [replace(value, content=None)]
    axes = axes if axes is not None else tuple(range(len(starts)))
    steps = steps if steps is not None else (1,) * len(starts)
    dims = None if value.dims is None else [*value.dims]
    if dims is None and call.is_fed(value) and any(step != 1 for step in steps):
        call.doubt("may reverse time")
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=False):
        if dims is not None and isinstance(axis, int) and -len(dims) <= axis < len(dims):
            dims[axis] = _cut(call, dims[axis], start, end, step)
    return [replace(value, dims=None if dims is None else tuple(dims), content=None)]


def _cut(call: Call, dim: Dim, start: Dim, end: Dim, step: Dim) -> Dim:
    """A part of an axis; of time, all steps or the last ones are what chunks have as well."""
    whole = start == 0 and isinstance(end, int) and end >= _END and step == 1
    if not grows(dim):
        return dim if whole else _length(dim, start, end, step)
    if whole:
        return dim
    if isinstance(step, int) and step < 0:
        call.tie("reverses time")
    elif isinstance(start, int) and start < 0 and isinstance(end, int) and end >= _END:
        return -start if step == 1 else None
    elif isinstance(start, int) and start > 0:
        call.tie(f"cuts off the first {start} steps of each call")
    else:
        call.tie("cuts the steps of each call")
    return "~time"


def _length(dim: Dim, start: Dim, end: Dim, step: Dim) -> Dim:
    """How long a slice of an axis of a known size is."""
    numbers = [number for number in (dim, start, end, step) if isinstance(number, int)]
    if len(numbers) < 4 or not numbers[3] or not 0 <= numbers[0] < _END:
        return None
    return len(range(numbers[0])[numbers[1] : numbers[2] : numbers[3]])


def _pad(call: Call) -> Sequence[Value]:
    value, pads = call.value(0), axes_of(call, "pads", 1)
    dims, axes = value.dims, call.value(3).content
    time = time_of(dims)
    if not dims or pads is None or (time is None and None in dims):
        if call.may_have_time(value):
            call.doubt("may pad time in each call")
        return [replace(value, content=None)]
    if axes is None:
        axes = tuple(range(len(pads) // 2))
    padded = {
        axis % len(dims)
        for axis, one in zip([*axes] * 2, pads, strict=False)
        if isinstance(axis, int) and one != 0
    }
    if time in padded:
        call.tie("pads time in each call")
    return [
        like(
            call,
            tuple(
                ("~time" if grows(d) else None) if i in padded else d for i, d in enumerate(dims)
            ),
            context=value.context,
        )
    ]


def _reverse(call: Call) -> Sequence[Value]:
    if call.may_have_time(call.value(0)):
        call.tie("reverses time")
    return [call.value(0)]


MOVING: Final[dict[str, Rule]] = {
    "Identity": _identity, "Cast": _identity, "Constant": _constant, "Shape": _shape,
    "Size": _size, "ConstantOfShape": _filled, "Range": _range, "Transpose": _transpose,
    "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Reshape": _reshape, "Flatten": _flatten,
    "Expand": _expand, "Tile": _tile, "Concat": _concat, "Split": _split, "Gather": _gather,
    "Slice": _slice, "Pad": _pad, "ReverseSequence": _reverse,
}  # fmt: skip
