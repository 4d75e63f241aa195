# SPDX-License-Identifier: Apache-2.0
"""Carries what a network over time needs of the steps before, from call to call.

A causal convolution pads its input on the left. At the beginning of a sequence the padding is
zeros; in the middle of one it has to be the steps before. So steps that a network puts before a
sequence (padding, a convolution's padding, zeros joined to it) become a state: a call gets the last
steps of the call before it. A transposed convolution with a kernel longer than its stride gives
outputs that overlap: a call adds what reaches beyond its last step to the beginning of the next.

Running sums and numbers of steps (`running_values`) go on from where the call before ended.

Which of these states make chunks exact is not decided here but measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .number import with_values
from .running_values import COUNT, SUM, SUMS, step_of_numbers, with_dim
from .slice_keys import axis_and_start, axis_of_beginning, steps_of_slices

_PADS: Final = (F.pad, torch._C._nn.pad, torch.constant_pad_nd)
_CONVOLUTIONS: Final = (torch.conv1d, torch.conv2d, torch.conv3d)
_TRANSPOSED: Final = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
_JOINS: Final = (torch.cat, torch.concat, torch.concatenate)
#: The position of the stride among the arguments, and the number of axes that it is for.
_STRIDED: Final[dict[Callable[..., Any], tuple[int, int]]] = {
    **{func: (3, n) for n, func in enumerate(_CONVOLUTIONS, 1)},
    **{getattr(F, f"{kind}_pool{n}d"): (2, n) for kind in ("avg", "max") for n in (1, 2, 3)},
    torch.max_pool1d: (2, 1),
    torch.max_pool2d: (2, 2),
}


@dataclass(frozen=True)
class Context:
    """Steps that one place in forward gets from the call before.

    Attributes:
        number: the number of the place, in the order in which forward reaches them.
        name: the name of its state, as "encoder_conv_frames".
        axis: the time axis there.
        steps: the number of steps.
        kind: as in `Place`.
    """

    number: int
    name: str
    axis: int
    steps: int
    kind: str = "frames"


@dataclass(frozen=True)
class Place:
    """A place in forward that needs something of the steps before a sequence.

    Attributes:
        kind: "frames" before it, an "overlap" with it, a running "sum", or a "count".
        path: the module that was running.
        shape: the shape of the sequence without the steps, or of all that overlaps.
        steps: the number of steps by axis, for each axis that has some.
        first: the steps' value at the beginning of a sequence: a number, or a tensor.
        dtype: the dtype of the sequence.
    """

    kind: str
    path: str
    shape: tuple[int, ...]
    steps: Mapping[int, int]
    first: float | Tensor
    dtype: torch.dtype


class ConvolutionStates(TorchFunctionMode):
    """Records such places; those of `contexts` get their steps from `states`.

    `places` are all places of a run and `lasts` the next states. `sizes` are the shapes of the
    first tensor and of the result of every function that was called. `strides` are the strides by
    axis of functions that have some; its keys are positions in `sizes`.
    """

    def __init__(self, contexts: Sequence[Context] = (), states: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self._carried = {
            context.number: (context, state)
            for context, state in zip(contexts, states, strict=True)
        }

        self.places: list[Place] = []
        self.lasts: list[Tensor] = []
        self._beginnings = _Beginnings()
        self.sizes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self.strides: dict[int, dict[int, int]] = {}
        self.path = ""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of `TorchFunctionMode`."""
        handler = _HANDLERS.get(func)
        kwargs = with_dim(kwargs or {})
        result = handler(self, func, *args, **kwargs) if handler else func(*args, **kwargs)

        if not torch.compiler.is_exporting():
            self._record_sizes(func, args, kwargs, result)
        return result

    def record_place(
        self,
        kind: str,
        shape: Sequence[int],
        steps: Mapping[int, int],
        first: float | Tensor,
        dtype: torch.dtype,
    ) -> tuple[Context, Tensor] | None:
        """Records a place; returns its context and state, or None if nothing is carried there."""
        self.places.append(Place(kind, self.path, tuple(shape), steps, first, dtype))
        return self._carried.get(len(self.places) - 1)

    def put_before(
        self, context: Context, state: Tensor, *parts: Tensor, length: int | None = None
    ) -> Tensor:
        """Joins the steps from the call before to this call's, and records the next state.

        Where the last part is the beginning of a longer sequence, as in a shift of time
        (`cat([zeros, x[:, :-1]], 1)`), the next call needs the steps that were cut off. The result
        has as many steps as all parts, or as `length` says.
        """
        axis = context.axis
        *others, last = [state, *parts]
        uncut = self._beginnings.whole_of(last, axis)
        whole = torch.cat([*others, uncut], axis)
        self.lasts.append(_end(whole, axis, whole.shape[axis], context.steps))
        if uncut is last:
            return whole
        if length is None:
            length = sum(part.shape[axis] for part in (state, *parts))
        return whole.narrow(axis, 0, length)

    def keep_beginning(self, whole: Tensor, beginning: Tensor, axis: int) -> None:
        """Remembers what a tensor is the beginning of."""
        self._beginnings.keep(whole, beginning, axis)

    def add_overlap(self, context: Context, state: Tensor, whole: Tensor, length: Any) -> Tensor:
        """Adds the overlap from the call before; returns all `length` steps that are complete."""
        axis, steps = context.axis, context.steps
        begin = whole.narrow(axis, 0, steps) + state
        whole = torch.cat([begin, whole.narrow(axis, steps, length)], axis)

        self.lasts.append(_end(whole, axis, length + steps, steps))
        return whole

    def _record_sizes(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> None:
        leaves = pytree.tree_leaves(args)
        tensor = next((leaf for leaf in leaves if isinstance(leaf, Tensor)), None)
        if tensor is None or not isinstance(result, Tensor):
            return

        strides = _strides_by_axis(func, tensor.ndim, args, kwargs)
        if strides is not None:
            self.strides[len(self.sizes)] = strides
        self.sizes.append((tuple(tensor.shape), tuple(result.shape)))


class _Beginnings:
    """Tensors that are the first steps of longer ones."""

    def __init__(self) -> None:
        # The tensors are kept, so that their ids stay theirs.
        self._wholes: dict[int, tuple[Tensor, Tensor, int]] = {}

    def keep(self, whole: Tensor, beginning: Tensor, axis: int) -> None:
        """Remembers that `beginning` is that of `whole` along an axis."""
        self._wholes[id(beginning)] = (beginning, whole, axis)

    def whole_of(self, tensor: Tensor, axis: int) -> Tensor:
        """The tensor whose beginning along an axis this one is; else the tensor itself."""
        _, whole, along = self._wholes.get(id(tensor), (tensor, tensor, axis))
        return whole if along == axis else tensor


def _strides_by_axis(
    func: Callable[..., Any], rank: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[int, int] | None:
    """The stride along each axis over which a function moves; None for most functions."""
    if func in _STRIDED:
        return _strides_of_windows(func, rank, args, kwargs)
    if func is Tensor.unfold:
        axis, step = _argument(args, kwargs, 1, "dimension"), _argument(args, kwargs, 3, "step")
        return {axis % rank: step}
    if func in (torch.stft, Tensor.stft):
        length = _argument(args, kwargs, 1, "n_fft")
        return {rank - 1: _argument(args, kwargs, 2, "hop_length") or length // 4}
    if func is Tensor.__getitem__:
        return steps_of_slices(args[1], rank)
    return None


def _strides_of_windows(
    func: Callable[..., Any], rank: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[int, int]:
    """The stride along each axis over which a convolution or pooling moves."""
    position, count = _STRIDED[func]
    stride = _argument(args, kwargs, position, "stride")
    if stride is None and func in _CONVOLUTIONS:
        stride = 1

    # The stride of pooling is its kernel by default.
    kernel = _argument(args, kwargs, 1, "kernel_size")
    return dict(enumerate(_each(stride or kernel, count), rank - count))


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    """An argument that may be passed by name or position, None by default."""
    by_position = args[position] if len(args) > position else None
    return kwargs.get(name, by_position)


def _end(tensor: Tensor, axis: int, end: Any, steps: int) -> Tensor:
    """The last `steps` before `end`."""
    return tensor.narrow(axis, end - steps, steps)


def _pad(
    frames: ConvolutionStates,
    func: Callable[..., Tensor],
    input: Tensor,  # noqa: A002  # PyTorch's name
    pad: Sequence[int],
    mode: Any = "constant",
    value: float | None = None,
) -> Tensor:
    """`F.pad`: pairs of numbers, the last axis first."""
    if func is torch.constant_pad_nd and not isinstance(mode, str):
        mode, value = "constant", mode

    pad = with_values(pad)
    pairs = [(pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)]
    before = _steps_before(pairs, input.ndim)
    carried = None
    if mode == "constant" and before:
        carried = frames.record_place("frames", input.shape, before, value or 0.0, input.dtype)
    if carried is None:
        return F.pad(input, pad, mode, value)

    context, state = carried
    joined = frames.put_before(context, state, input)
    index = input.ndim - 1 - context.axis
    pairs[index] = (0, pairs[index][1])
    rest = list(chain.from_iterable(pairs))
    # A number of steps that is a tensor is not asked for its value, which tracing does not know.
    is_padded = any(isinstance(size, Tensor) or size for size in rest)
    return F.pad(joined, rest, mode, value) if is_padded else joined


def _steps_before(pairs: Sequence[tuple[int, int]], rank: int) -> dict[int, int]:
    """The padding on the left by axis, for pairs of numbers, the last axis first."""
    before = {}
    for index, (left, _) in enumerate(pairs):
        # A size that is not known while tracing is no int.
        if not isinstance(left, int) or left > 0:
            before[rank - 1 - index] = left
    return before


def _convolve(
    frames: ConvolutionStates,
    func: Callable[..., Tensor],
    input: Tensor,  # noqa: A002  # PyTorch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution; it pads both sides alike, with zeros."""
    kernel = weight.shape[2:]
    axes = range(input.ndim - len(kernel), input.ndim)
    pairs = _padding(padding, kernel, _each(dilation, len(kernel)))
    by_axis = dict(zip(axes, pairs, strict=True))

    before = {axis: left for axis, (left, _) in by_axis.items() if left > 0}
    carried = None
    if before:
        carried = frames.record_place("frames", input.shape, before, 0.0, input.dtype)
    if carried is None:
        return func(input, weight, bias, stride, padding, dilation, groups)

    context, state = carried
    joined = frames.put_before(context, state, input)
    by_axis[context.axis] = (0, by_axis[context.axis][1])
    rest = list(chain.from_iterable(reversed(by_axis.values())))
    return func(F.pad(joined, rest), weight, bias, stride, 0, dilation, groups)


def _transpose(
    frames: ConvolutionStates,
    func: Callable[..., Tensor],
    input: Tensor,  # noqa: A002  # PyTorch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """A transposed convolution; one that cuts off its edges has no overlap to carry."""
    rest = (stride, padding, output_padding, groups, dilation)
    count = weight.ndim - 2
    first = input.ndim - count
    strides = _each(stride, count)
    paddings = zip(_each(padding, count), _each(output_padding, count), strict=True)
    edges = [edge or output_edge for edge, output_edge in paddings]

    over = _steps_over(weight.shape[2:], strides, _each(dilation, count), edges)
    overlaps = {first + index: steps for index, steps in over.items()}
    if not overlaps:
        return func(input, weight, bias, *rest)

    # The bias is added at the end: in the overlap of two calls it would count twice.
    whole = func(input, weight, None, *rest)
    carried = frames.record_place("overlap", whole.shape, overlaps, 0.0, input.dtype)
    if carried is not None:
        context, state = carried
        length = input.shape[context.axis] * strides[context.axis - first]
        whole = frames.add_overlap(context, state, whole, length)
    return whole if bias is None else whole + bias.view(-1, *[1] * count)


def _steps_over(
    kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], edges: Sequence[int]
) -> dict[int, int]:
    """By axis of the kernel, the number of output steps that two calls share, if any.

    `edges` are the numbers of steps that the convolution cuts off or adds at the end.
    """
    over = {}
    for index, size in enumerate(kernel):
        steps = (size - 1) * dilations[index] + 1 - strides[index]
        if steps > 0 and not edges[index]:
            over[index] = steps
    return over


def _join(
    frames: ConvolutionStates,
    func: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    dim: int = 0,
    **rest: Any,
) -> Tensor:
    """A join, which may put constant steps before a sequence."""
    if rest or len(tensors) < 2 or not all(isinstance(part, Tensor) for part in tensors):
        return func(tensors, dim, **rest)

    first, *parts = tensors
    axis = dim % first.ndim
    steps = {axis: first.shape[axis]}
    # Forward may write into the tensor later.
    constant = first if torch.compiler.is_exporting() else first.detach().clone()
    carried = frames.record_place("frames", parts[0].shape, steps, constant, first.dtype)
    if carried is None:
        return func(tensors, dim)

    context, state = carried
    return frames.put_before(context, state, *parts)


def _index(frames: ConvolutionStates, func: Callable[..., Any], tensor: Tensor, key: Any) -> Any:
    """`tensor[key]`, which may be the beginning of a sequence."""
    result = func(tensor, key)
    axis = axis_of_beginning(key, tensor.ndim)
    if axis is not None:
        frames.keep_beginning(tensor, result, axis)
    return result


def _place_behind(tensor: Tensor, key: Any, value: Any) -> tuple[int, int] | None:
    """The axis and the number of steps behind which `tensor[key] = value` writes a sequence."""
    if not isinstance(value, Tensor) or value.ndim != tensor.ndim or value.dtype != tensor.dtype:
        return None
    return axis_and_start(key, tensor.ndim)


def _write(
    frames: ConvolutionStates, func: Callable[..., Any], tensor: Tensor, key: Any, value: Any
) -> Any:
    """`tensor[key] = value`, which may put a sequence behind constant steps.

    `y = zeros_like(x); y[:, 1:] = x[:, :-1]` is `y = cat([zeros, x[:, :-1]], 1)`.
    """
    place = _place_behind(tensor, key, value)
    if place is None:
        return func(tensor, key, value)

    axis, count = place
    # There may be fewer steps than are left free, of which `narrow` gives none.
    before = tensor[(slice(None),) * axis + (slice(0, count),)]
    constant = before if torch.compiler.is_exporting() else before.detach().clone()
    carried = frames.record_place("frames", value.shape, {axis: count}, constant, value.dtype)
    if carried is None:
        return func(tensor, key, value)

    context, state = carried
    length = tensor.shape[axis]
    return func(tensor, slice(None), frames.put_before(context, state, value, length=length))


def _narrow(
    frames: ConvolutionStates,
    func: Callable[..., Tensor],
    input: Tensor,  # noqa: A002  # PyTorch's name
    dim: int,
    start: Any,
    length: Any,
) -> Tensor:
    """`torch.narrow`, which may give the beginning of a sequence."""
    result = func(input, dim, start, length)
    if isinstance(start, int) and start == 0:
        frames.keep_beginning(input, result, dim % input.ndim)
    return result


def _sum_up(
    frames: ConvolutionStates,
    func: Callable[..., Tensor],
    input: Tensor,  # noqa: A002  # PyTorch's name
    dim: int,
    **rest: Any,
) -> Tensor:
    """A running sum, which goes on from the last value of the call before."""
    result = func(input, dim, **rest)
    if input.ndim == 0:
        return result

    axis = dim % input.ndim
    carried = frames.record_place(SUM, result.shape, {axis: 1}, 0.0, result.dtype)
    if carried is None:
        return result

    _, state = carried
    sums = result + state
    frames.lasts.append(_end(sums, axis, sums.shape[axis], 1))
    return sums


def _number(frames: ConvolutionStates, func: Callable[..., Tensor], *args: Any, **rest: Any) -> Any:
    """`torch.arange`, whose numbers go on from the last one of the call before."""
    numbers = func(*args, **rest)
    step = step_of_numbers(args, rest)
    if step is None:
        return numbers

    carried = frames.record_place(COUNT, numbers.shape, {0: 1}, 0.0, torch.int64)
    if carried is None:
        return numbers

    _, offset = carried
    count = numbers.shape[0]
    first = numbers.narrow(0, 0, 1)
    numbers = numbers + offset.to(numbers.dtype)
    after = _end(numbers, 0, count, 1) + step - first
    frames.lasts.append(after.to(torch.int64))
    return numbers


_HANDLERS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    **dict.fromkeys(_PADS, _pad),
    **dict.fromkeys(_CONVOLUTIONS, _convolve),
    **dict.fromkeys(_TRANSPOSED, _transpose),
    **dict.fromkeys(_JOINS, _join),
    Tensor.__getitem__: _index,
    Tensor.__setitem__: _write,
    **dict.fromkeys(SUMS, _sum_up),
    torch.arange: _number,
    **dict.fromkeys((torch.narrow, Tensor.narrow), _narrow),
}


def _each(value: Any, count: int) -> tuple[int, ...]:
    """A number for each of `count` axes, from such numbers or a single one."""
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * count if len(values) == 1 else values


def _padding(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """The padding before and behind each axis of a kernel."""
    if padding == "same":
        totals = [d * (size - 1) for size, d in zip(kernel, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]

    if padding == "valid":
        return [(0, 0)] * len(kernel)

    return [(steps, steps) for steps in _each(padding, len(kernel))]
