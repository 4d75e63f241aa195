# SPDX-License-Identifier: Apache-2.0
"""What operators that move data, or compute sizes, do to time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from ...picking import instances_of
from .dims import (
    Dim,
    Dims,
    Value,
    axes_from_front,
    grows,
    has_axis,
    may_grow,
    merged,
    reshaped,
    rest,
    time_of,
    with_axis,
    without_axes,
)
from .nodes import Tensor
from .walk import Call, Rule, like

#: A slice with a larger end reaches to the end of the sequence.
_END: Final = 2**30


def _identity(call: Call) -> Sequence[Value]:
    return [call.value(0)]


def _constant(call: Call) -> Sequence[Value]:
    value = call.node.attributes.get("value")
    if isinstance(value, Tensor):
        return [Value(value.shape, content=value.numbers)]

    number = call.node.attributes.get("value_int")
    if isinstance(number, int):
        return [Value((), content=(number,))]

    numbers = call.node.numbers("value_ints")
    if numbers:
        return [Value((len(numbers),), content=numbers)]
    return [Value(())]


def _shape(call: Call) -> Sequence[Value]:
    dims = call.value(0).dims
    if dims is None:
        return [Value((None,))]

    start = call.node.number("start", 0)
    end = call.node.number("end", len(dims))
    content = dims[start:end]
    return [Value((len(content),), content=content)]


def _size(call: Call) -> Sequence[Value]:
    return [Value((), content=(rest(call.value(0).dims, ()),))]


def _constant_of_shape(call: Call) -> Sequence[Value]:
    return [Value(call.value(0).content)]


def _range(call: Call) -> Sequence[Value]:
    if grows(call.value(1).first):
        call.tie("counts the steps from the beginning of each call")
        return [like(call, ("~time",))]
    return [like(call, (None,))]


def _transpose(call: Call) -> Sequence[Value]:
    value = call.value(0)
    dims = value.dims
    if dims is None:
        return [replace(value, content=None)]

    axes = range(len(dims))
    order = call.node.numbers("perm") or tuple(reversed(axes))
    if sorted(order) != [*axes]:
        return [like(call, None)]
    return [replace(value, dims=tuple(dims[axis] for axis in order))]


def axes_of(call: Call, name: str, position: int) -> Dims | None:
    """The integers of an attribute (older opsets) or an operand (newer opsets), such as axes."""
    return call.node.numbers(name) or call.value(position).content


def _unsqueeze(call: Call) -> Sequence[Value]:
    value = call.value(0)
    axes = axes_of(call, "axes", 1)
    if value.dims is None or axes is None:
        return [replace(value, dims=None)]

    rank = len(value.dims) + len(axes)
    inserted = axes_from_front(axes, rank)
    others = iter(value.dims)
    dims = [1 if axis in inserted else next(others, None) for axis in range(rank)]
    return [replace(value, dims=tuple(dims))]


def _squeeze(call: Call) -> Sequence[Value]:
    value = call.value(0)
    axes = axes_of(call, "axes", 1)
    dims = value.dims
    if not dims:
        return [value]

    if axes is not None:
        removed = axes_from_front(axes, len(dims))
    elif None in dims:
        return [replace(value, dims=None)]
    else:
        removed = {axis for axis, dim in enumerate(dims) if dim == 1}

    return [replace(value, dims=without_axes(dims, removed))]


def _reshape(call: Call) -> Sequence[Value]:
    value = call.value(0)
    target = call.node.numbers("shape") or call.value(1).content
    dims = reshaped(value.dims, target)
    _check_order(call, value.dims, dims)

    content = value.content if dims == () else None
    return [replace(value, dims=dims, content=content)]


def _check_order(call: Call, before: Dims | None, after: Dims | None) -> None:
    """Notes a reshaping that mixes steps with other axes.

    It does if the number of elements in front of the time axis changes.
    """
    old_size = _size_before_time(before)
    new_size = _size_before_time(after)
    if old_size is None or new_size is None:
        return
    if old_size != new_size:
        call.tie("mixes the steps of a call with its other axes")


def _size_before_time(dims: Dims | None) -> Dim:
    """The product of the dimensions in front of a time axis; None where it is unknown.

    It is also None if the axis grows with time in another way, such as "batch*time".
    """
    axis = time_of(dims)
    if dims is None or axis is None or dims[axis] != "time":
        return None
    return rest(dims[:axis], ())


def _flatten(call: Call) -> Sequence[Value]:
    dims = call.value(0).dims
    if dims is None:
        return [like(call, None)]

    axis = call.node.number("axis", 1) % (len(dims) + 1)
    return [like(call, (_joined_dim(dims[:axis]), _joined_dim(dims[axis:])))]


def _joined_dim(dims: Dims) -> Dim:
    product = rest(dims, ())
    if product is None and any(map(grows, dims)):
        return "~time"
    return product


def _expand(call: Call) -> Sequence[Value]:
    dims = call.value(0).dims
    target = call.value(1).content
    if target is None:
        return [like(call, dims if time_of(dims) is not None else None)]
    if dims is None:
        return [like(call, None)]

    rank = max(len(dims), len(target))
    old = (1,) * (rank - len(dims)) + dims
    new = (1,) * (rank - len(target)) + target
    expanded = [a if b == 1 else b for a, b in zip(old, new, strict=True)]
    return [like(call, tuple(expanded))]


def _tile(call: Call) -> Sequence[Value]:
    dims = call.value(0).dims
    return [like(call, None if dims is None else time_alone(dims))]


def time_alone(dims: Dims) -> Dims:
    """The dimensions, all unknown but those that grow with time."""
    return tuple(dim if grows(dim) else None for dim in dims)


def _concat(call: Call) -> Sequence[Value]:
    dims = _common_dims([value.dims for value in call.values])
    if not dims:
        return [like(call, None)]

    axis = call.node.number("axis", 0) % len(dims)
    lengths = [value.dims[axis] for value in call.values if value.dims is not None]
    if any(map(grows, lengths)):
        return [_lengthened(call, dims, axis)]
    return [like(call, with_axis(dims, axis, _sum(lengths)))]


def _common_dims(shapes: Sequence[Dims | None]) -> Dims | None:
    """What all shapes agree on; None where there is none, or one of them is unknown."""
    if not shapes:
        return None

    dims, *others = shapes
    for shape in others:
        dims = merged(dims, shape)
    return dims


def _sum(dims: Sequence[Dim]) -> int | None:
    """The sum of sizes; None where one of them is unknown."""
    sizes = instances_of(int, dims)
    if len(sizes) == len(dims):
        return sum(sizes)
    return None


def _lengthened(call: Call, dims: Dims, axis: int) -> Value:
    """A sequence that is joined with something else along time."""
    parts = []
    for value in call.values:
        if value.dims is None or not grows(value.dims[axis]):
            parts.append(value)

    context = bool(parts) and all(map(call.is_state, parts))

    if context:
        call.doubt("puts steps of the call before in front")
    elif parts:
        call.tie("joins steps of its own to the sequence in each call")
    else:
        call.doubt("joins sequences")
    return like(call, with_axis(dims, axis, "~time"), context=context)


def _split(call: Call) -> Sequence[Value]:
    dims = call.value(0).dims
    count = len(call.node.outputs)
    if not dims:
        return [like(call, None)] * count

    axis = call.node.number("axis", 0) % len(dims)
    if grows(dims[axis]):
        call.tie("splits the steps of each call")
    return [like(call, with_axis(dims, axis, None))] * count


def _gather(call: Call) -> Sequence[Value]:
    value = call.value(0)
    index = call.value(1)
    if not value.dims or index.dims is None:
        if call.is_uncertain(value) or call.is_uncertain(index):
            call.doubt("may take steps by their number")
        return [like(call, None)]

    axis = call.node.number("axis", 0) % len(value.dims)
    if grows(value.dims[axis]) and not _follows_time(index):
        call.tie("takes steps by their number in each call")
    return [like(call, with_axis(value.dims, axis, *index.dims))]


def _follows_time(index: Value) -> bool:
    """Whether an index takes one step in each iteration of a loop, or the last step."""
    return index.counter or index.content == (-1,)


class _Slices(NamedTuple):
    """The operands of Slice: for each axis, where the slice begins and ends, and its step."""

    axes: Dims
    starts: Dims
    ends: Dims
    steps: Dims


def _slice(call: Call) -> Sequence[Value]:
    value = call.value(0)
    slices = _slices_of(call)
    if slices is None:
        if call.may_have_time(value):
            call.doubt("may cut the steps of each call")
        return [replace(value, content=None)]

    if value.dims is None:
        if call.is_fed(value) and any(step != 1 for step in slices.steps):
            call.doubt("may reverse time")
        return [replace(value, content=None)]

    dims = [*value.dims]
    for axis, start, end, step in zip(*slices, strict=False):
        if isinstance(axis, int) and has_axis(dims, axis):
            dims[axis] = _sliced_dim(call, dims[axis], start, end, step)
    return [replace(value, dims=tuple(dims), content=None)]


def _slices_of(call: Call) -> _Slices | None:
    """The operands of Slice; None where it is unknown where the slices begin and end."""
    starts = axes_of(call, "starts", 1)
    ends = axes_of(call, "ends", 2)
    if starts is None or ends is None:
        return None

    axes = axes_of(call, "axes", 3)
    if axes is None:
        axes = tuple(range(len(starts)))
    steps = axes_of(call, "steps", 4)
    if steps is None:
        steps = (1,) * len(starts)
    return _Slices(axes, starts, ends, steps)


def _sliced_dim(call: Call, dim: Dim, start: Dim, end: Dim, step: Dim) -> Dim:
    """The dimension of a slice; unchanged where the slice is the whole axis."""
    is_whole = start == 0 and step == 1 and _reaches_end(end)
    if is_whole:
        return dim
    if grows(dim):
        return _sliced_time(call, start, end, step)
    return _sliced_size(dim, start, end, step)


def _sliced_time(call: Call, start: Dim, end: Dim, step: Dim) -> Dim:
    """The length of a slice of time.

    The last steps of a sequence are also the last steps of its last chunk; any other slice ties
    the steps of the call together.
    """
    if _is_negative(step):
        call.tie("reverses time")
        return "~time"

    if isinstance(start, int) and start < 0 and _reaches_end(end):
        return -start if step == 1 else None

    if isinstance(start, int) and start > 0:
        first = "first step" if start == 1 else f"first {start} steps"
        call.tie(f"cuts off the {first} of each call")
    else:
        call.tie("cuts the steps of each call")
    return "~time"


def _reaches_end(end: Dim) -> bool:
    return isinstance(end, int) and end >= _END


def _is_negative(dim: Dim) -> bool:
    return isinstance(dim, int) and dim < 0


def _sliced_size(dim: Dim, start: Dim, end: Dim, step: Dim) -> int | None:
    """The length of a slice of an axis of known size; None where it cannot be computed."""
    if not isinstance(dim, int) or not 0 <= dim < _END:
        return None
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(step, int)):
        return None
    if step:
        return len(range(dim)[start:end:step])
    return None


def _pad(call: Call) -> Sequence[Value]:
    value = call.value(0)
    pads = axes_of(call, "pads", 1)
    dims = value.dims
    if not dims or pads is None or may_grow(dims):
        if call.may_have_time(value):
            call.doubt("may pad time in each call")
        return [replace(value, content=None)]

    padded = _padded_axes(call, pads, len(dims))
    if time_of(dims) in padded:
        call.tie("pads time in each call")

    for axis in padded:
        dims = with_axis(dims, axis, _padded_dim(dims[axis]))
    return [like(call, dims, context=value.context)]


def _padded_axes(call: Call, pads: Dims, rank: int) -> set[int]:
    """The axes that get padding; `pads` has the beginnings of all axes, then their ends."""
    axes = call.value(3).content
    if axes is None:
        axes = tuple(range(len(pads) // 2))

    ends = zip((*axes, *axes), pads, strict=False)
    return axes_from_front([axis for axis, pad in ends if pad != 0], rank)


def _padded_dim(dim: Dim) -> Dim:
    return "~time" if grows(dim) else None


def _reverse_sequence(call: Call) -> Sequence[Value]:
    if call.may_have_time(call.value(0)):
        call.tie("reverses time")
    return [call.value(0)]


MOVING: Final[dict[str, Rule]] = {
    "Identity": _identity,
    "Cast": _identity,
    "Constant": _constant,
    "Shape": _shape,
    "Size": _size,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Expand": _expand,
    "Tile": _tile,
    "Concat": _concat,
    "Split": _split,
    "Gather": _gather,
    "Slice": _slice,
    "Pad": _pad,
    "ReverseSequence": _reverse_sequence,
}
