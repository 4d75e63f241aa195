"""What a convolution over time needs of former steps, as a state that is carried from call to call.

A causal convolution pads its input on the left: what stands there is zeros at the beginning of a
sequence, and in the middle of one the steps before. So steps that a network puts before a sequence
(padding, a convolution's own padding, zeros joined to it) become a state: a call gets the last
steps of the call before it. A transposed convolution with a kernel longer than its stride gives
outputs that overlap: what reaches beyond a call's own steps is added to the beginning of the next.

Which of these make chunks exact is not decided here but measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

_PADS: Final = (F.pad, torch._C._nn.pad, torch.constant_pad_nd)
_CONVOLUTIONS: Final = (torch.conv1d, torch.conv2d, torch.conv3d)
_TRANSPOSED: Final = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
_JOINS: Final = (torch.cat, torch.concat, torch.concatenate)
#: Where the stride stands among the arguments, and how many axes it is for. Pooling's is its kernel
#: where it is not said.
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
        number: the place, in the order in which forward comes to them.
        name: what its state is called, "encoder_conv_frames".
        axis: the axis of time there.
        steps: how many steps.
    """

    number: int
    name: str
    axis: int
    steps: int


@dataclass(frozen=True)
class Place:
    """A place where steps stand before a sequence, or reach beyond its end.

    Attributes:
        kind: "frames" or "overlap".
        path: the module that was running.
        shape: the sequence's shape: behind the steps, or of what overlaps.
        steps: how many steps, for each axis that has some.
        first: what stands there at the beginning of a sequence: a number, or a tensor.
        dtype: the sequence's.
    """

    kind: str
    path: str
    shape: tuple[int, ...]
    steps: Mapping[int, int]
    first: float | Tensor
    dtype: torch.dtype


class ConvolutionStates(TorchFunctionMode):
    """Sees such places; those of `contexts` get their steps from `states`, and give the last ones.

    `places` are all that were seen, `lasts` the next states, `sizes` the shapes of what every
    function was given and gave, `strides` the strides by axis of those that have some.
    """

    def __init__(self, contexts: Sequence[Context] = (), states: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.given = {
            context.number: (context, state)
            for context, state in zip(contexts, states, strict=True)
        }
        self.places: list[Place] = []
        self.lasts: list[Tensor] = []
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
        kwargs = kwargs or {}
        result = handler(self, func, *args, **kwargs) if handler else func(*args, **kwargs)
        if not torch.compiler.is_exporting():
            self._note(func, args, kwargs, result)
        return result

    def context(self, place: Place) -> tuple[Context, Tensor] | None:
        """Notes a place; its context and state, if it gets one."""
        self.places.append(place)
        return self.given.get(len(self.places) - 1)

    def put_before(self, context: Context, state: Tensor, *parts: Tensor) -> Tensor:
        """The steps from the call before, and then this call's."""
        joined = torch.cat([state, *parts], context.axis)
        self.lasts.append(_end(joined, context.axis, joined.shape[context.axis], context.steps))
        return joined

    def _note(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> None:
        given = next((a for a in pytree.tree_leaves(args) if isinstance(a, Tensor)), None)
        if given is None or not isinstance(result, Tensor):
            return
        if func in _STRIDED:
            position, count = _STRIDED[func]
            kernel = kwargs.get("kernel_size", args[1] if len(args) > 1 else None)
            stride = kwargs.get("stride", args[position] if len(args) > position else None)
            if func in _CONVOLUTIONS:
                stride = 1 if stride is None else stride
            each = _each(stride or kernel, count)
            first = given.ndim - count
            self.strides[len(self.sizes)] = {first + i: size for i, size in enumerate(each)}
        self.sizes.append((tuple(given.shape), tuple(result.shape)))


def _end(tensor: Tensor, axis: int, end: Any, steps: int) -> Tensor:
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
    pairs = [(pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)]
    # A size that is not known while tracing is no number.
    before = {
        input.ndim - 1 - i: left
        for i, (left, _) in enumerate(pairs)
        if not isinstance(left, int) or left > 0
    }
    if mode != "constant" or not before:
        return F.pad(input, pad, mode, value)
    found = frames.context(
        Place("frames", frames.path, tuple(input.shape), before, value or 0.0, input.dtype)
    )
    if found is None:
        return F.pad(input, pad, mode, value)
    context, state = found
    joined = frames.put_before(context, state, input)
    pairs[input.ndim - 1 - context.axis] = (0, pairs[input.ndim - 1 - context.axis][1])
    rest = [number for pair in pairs for number in pair]
    return F.pad(joined, rest, mode, value) if any(rest) else joined


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
    """A convolution; its own padding is the same on both sides, zeros."""
    kernel = weight.shape[2:]
    pairs = _padding(padding, kernel, _each(dilation, len(kernel)))
    axes = range(input.ndim - len(kernel), input.ndim)
    before = {axis: left for axis, (left, _) in zip(axes, pairs, strict=True) if left > 0}
    found = before and frames.context(
        Place("frames", frames.path, tuple(input.shape), before, 0.0, input.dtype)
    )
    if not found:
        return func(input, weight, bias, stride, padding, dilation, groups)
    context, state = found
    joined = frames.put_before(context, state, input)
    rest = [
        number
        for axis, (left, right) in reversed([*zip(axes, pairs, strict=True)])
        for number in (0 if axis == context.axis else left, right)
    ]
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
    """A transposed convolution; one that cuts off its own edges has no overlap to carry."""
    rest = (stride, padding, output_padding, groups, dilation)
    count = weight.ndim - 2
    strides, dilations = _each(stride, count), _each(dilation, count)
    cuts = [
        p or o for p, o in zip(_each(padding, count), _each(output_padding, count), strict=True)
    ]
    first = input.ndim - count
    overlaps = {
        first + i: over
        for i, size in enumerate(weight.shape[2:])
        if (over := (size - 1) * dilations[i] + 1 - strides[i]) > 0 and not cuts[i]
    }
    if not overlaps:
        return func(input, weight, bias, *rest)
    whole = func(input, weight, None, *rest)
    found = frames.context(
        Place("overlap", frames.path, tuple(whole.shape), overlaps, 0.0, input.dtype)
    )
    if found is not None:
        context, state = found
        axis, steps = context.axis, context.steps
        length = input.shape[axis] * strides[axis - first]
        begin = whole.narrow(axis, 0, steps) + state
        whole = torch.cat([begin, whole.narrow(axis, steps, length)], axis)
        frames.lasts.append(_end(whole, axis, length + steps, steps))
    return whole if bias is None else whole + bias.view(-1, *[1] * count)


def _join(
    frames: ConvolutionStates,
    func: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    dim: int = 0,
    **rest: Any,
) -> Tensor:
    """Steps joined to the beginning of a sequence: a constant first part is one."""
    if rest or len(tensors) < 2 or not all(isinstance(part, Tensor) for part in tensors):
        return func(tensors, dim, **rest)
    first, *others = tensors
    axis = dim % first.ndim
    steps, shape = {axis: first.shape[axis]}, others[0].shape
    own = first if torch.compiler.is_exporting() else first.detach().clone()
    found = frames.context(Place("frames", frames.path, tuple(shape), steps, own, first.dtype))
    if found is None:
        return func(tensors, dim)
    context, state = found
    return frames.put_before(context, state, *others)


_HANDLERS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    **dict.fromkeys(_PADS, _pad),
    **dict.fromkeys(_CONVOLUTIONS, _convolve),
    **dict.fromkeys(_TRANSPOSED, _transpose),
    **dict.fromkeys(_JOINS, _join),
}


def _each(value: Any, count: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * count if len(values) == 1 else values


def _padding(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    if padding == "same":
        totals = [d * (size - 1) for size, d in zip(kernel, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    return [(p, p) for p in _each(padding, len(kernel))]
