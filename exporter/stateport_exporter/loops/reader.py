# SPDX-License-Identifier: Apache-2.0
"""Reading the nodes of an exported program as operations.

What is written in different ways is made alike: `x[:, t]`, `x.unbind(1)`, `for x_t in x`,
`x[:, t:t+1]` and `x.split(1, 1)` all become slices, a tensor that is filled step by step becomes
one stack of the steps, and everything that makes a tensor of one value becomes `torch.full`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx

from stateport.picking import map_values

from ..errors import ExportError
from ..network.program import Op, Ref, Slice
from .trace import TensorMeta

_aten: Final = torch.ops.aten
_END: Final = 2**63 - 1
#: Operators that return their operand unchanged, as long as gradients do not matter.
_UNCHANGED: Final = (_aten.alias.default, _aten.detach.default, _aten.lift_fresh_copy.default)
#: Operators that copy a constant before it is used as an index.
COPIES: Final = (_aten.clone.default, *_UNCHANGED)
_CHECKS: Final = (
    _aten._assert_scalar.default,
    _aten._assert_tensor_metadata.default,
    _aten.sym_constrain_range_for_size.default,
    _aten.sym_constrain_range.default,
)
#: Operators that make a tensor of one value, and the value. That of empty tensors is arbitrary.
_VALUES: Final[dict[Any, int]] = {
    _aten.zeros.default: 0,
    _aten.zeros_like.default: 0,
    _aten.new_zeros.default: 0,
    _aten.empty.memory_format: 0,
    _aten.empty_like.default: 0,
    _aten.new_empty.default: 0,
    _aten.ones.default: 1,
    _aten.ones_like.default: 1,
    _aten.new_ones.default: 1,
}
#: Operators that make a tensor of one value, which is their last argument.
_FILLS: Final = (_aten.full.default, _aten.full_like.default, _aten.new_full.default)


@dataclass(frozen=True)
class _Filled:
    """A tensor that is filled step by step: what it was before, and what is written at an index."""

    before: Any
    axis: int
    written: Mapping[int, Any]


class Reader:
    """Turns FX nodes into operations, one after the other.

    Args:
        inputs: the nodes of the inputs, which get the first numbers.
        same: further nodes of constants, each with the one among the inputs that it equals.
        steps: nodes of constants that are used as an index alone.
        numbers: nodes of constants of one value that follow from the number of the step.
        sums_begin_with_zero: whether `x + 0` is the first step of a sum.
        time: the number of steps of the trace.
        multiple: the number of steps that each pass of a loop takes.
        windows: by axis and length, the parts of sequences that loops take in every step.
    """

    def __init__(
        self,
        inputs: Sequence[fx.Node],
        same: Mapping[fx.Node, fx.Node],
        steps: Mapping[fx.Node, Tensor],
        numbers: Mapping[fx.Node, Tensor],
        *,
        sums_begin_with_zero: bool,
        time: int,
        multiple: int,
        windows: Collection[tuple[int, int]],
    ) -> None:
        self.operand_of: dict[fx.Node, Any] = {}
        self.parts_of: dict[fx.Node, list[Any]] = {}
        self.metas: dict[int, Any] = {}
        self.ops: list[Op] = []

        self._filled: dict[int, _Filled] = {}
        self._stacked: dict[int, Ref] = {}
        for number, node in enumerate(inputs):
            self.operand_of[node] = Ref(number)
            self.metas[number] = _node_meta(node)
        for node, first in same.items():
            self.operand_of[node] = self.operand_of[first]
        self._steps = dict(steps)
        self._numbers = dict(numbers)
        self._sums_begin_with_zero = sums_begin_with_zero
        self._time, self._multiple = time, multiple
        self._windows = windows
        self._next = self._inputs = len(inputs)

    def read(self, node: fx.Node) -> None:
        """Adds the operation of a node, if it needs one."""
        if node.target in _CHECKS:
            return
        source = node.args[0] if node.target in COPIES else None
        if isinstance(source, fx.Node) and source in self._steps:
            self._steps[node] = self._steps[source]
            return
        if isinstance(source, fx.Node) and source in self._numbers:
            self._read_number(node, self._numbers[source])
            return

        read_special = _SPECIAL.get(node.target)
        if read_special is not None and read_special(self, node):
            return

        args, kwargs = self.operand(node.args), self.operand(node.kwargs)
        self.operand_of[node] = self._add(
            node.target, self.complete(args), _node_meta(node), kwargs, _module_path(node)
        )

    def operand(self, value: Any) -> Any:
        """An argument of a node as an operand."""
        if isinstance(value, fx.Node):
            return self.operand_of[value]
        if isinstance(value, list | tuple):
            return tuple(map(self.operand, value))
        if isinstance(value, dict):
            return map_values(self.operand, value)
        return value

    def complete(self, operand: Any) -> Any:
        """The operand, with one stack in place of each tensor that was filled step by step."""
        if isinstance(operand, tuple):
            return tuple(map(self.complete, operand))
        if isinstance(operand, Slice):
            source = self.complete(operand.source)
            return Slice(source, operand.dim, operand.index, operand.keep)
        if not isinstance(operand, Ref) or operand.value not in self._filled:
            return operand

        if operand.value not in self._stacked:
            self._stacked[operand.value] = self._stack_steps(operand.value)
        return self._stacked[operand.value]

    def _stack_steps(self, value: int) -> Ref:
        """Stacks the steps of a filled tensor; those not written are taken from before."""
        filled, meta = self._filled[value], self.metas[value]
        steps = []
        for index in range(meta.shape[filled.axis]):
            if index in filled.written:
                steps.append(filled.written[index])
            else:
                steps.append(self._slice(filled.before, filled.axis, index))

        return self._add(_aten.stack.default, (self.complete(tuple(steps)), filled.axis), meta)

    def _add(
        self,
        target: Any,
        args: tuple[Any, ...],
        meta: Any,
        kwargs: Mapping[str, Any] | None = None,
        path: str = "",
    ) -> Ref:
        """Adds an operation and returns its result."""
        pairs = tuple((name, self.complete(value)) for name, value in (kwargs or {}).items())
        self.ops.append(Op(self._next, target, args, pairs, path))
        return self._describe_next(meta)

    def _describe_next(self, meta: Any) -> Ref:
        self.metas[self._next] = meta
        self._next += 1
        return Ref(self._next - 1)

    def _slice(self, source: Any, dim: int, index: int, *, keep: bool = False) -> Any:
        """A slice of a tensor. Of one that is filled step by step, what was written there."""
        while not keep and isinstance(source, Ref) and source.value in self._filled:
            filled = self._filled[source.value]
            if filled.axis != dim:
                break
            if index in filled.written:
                return filled.written[index]
            source = filled.before

        is_step_of_one = isinstance(source, Slice) and source.keep and source.dim == dim
        if is_step_of_one:  # x[:, t:t+1][:, 0]
            return Slice(source.source, dim, source.index, keep)
        return Slice(source, dim, index, keep)

    def _is_filled_along(self, operand: Any, axis: int) -> bool:
        """Whether an operand is a tensor that is filled step by step along this axis."""
        filled = self._filled.get(operand.value) if isinstance(operand, Ref) else None
        return filled is not None and filled.axis == axis

    def _size_operands(self, shape: Sequence[int | str]) -> tuple[int | Ref | None, ...]:
        """The sizes of a shape as operands; None for one that no input has."""
        return tuple(size if isinstance(size, int) else self._read_size(size) for size in shape)

    def _read_size(self, size: str) -> Ref | None:
        """A dynamic size, read from the first input that has it."""
        for number in range(self._inputs):
            meta = self.metas[number]
            if isinstance(meta, TensorMeta) and size in meta.shape:
                args = (Ref(number), meta.shape.index(size))
                return self._add(_aten.sym_size.int, args, size)
        return None

    def _read_number(self, node: fx.Node, value: Tensor) -> None:
        """`torch.tensor(t)`, which is `torch.full((), t)`."""
        meta = TensorMeta(tuple(value.shape), value.dtype)
        args = tuple(value.shape), value.item()
        self.operand_of[node] = self._add(_aten.full.default, args, meta, {"dtype": value.dtype})

    # Each of the following reads the nodes of some operators. It returns False, for the node to be
    # read as any other, where the node's arguments are not those that it knows.

    def _read_constant(self, node: fx.Node) -> bool:
        """`torch.zeros`, `zeros_like` and their kind: all become `torch.full`."""
        value = _VALUES.get(node.target, node.args[-1])
        meta = _node_meta(node)
        sizes = self._size_operands(meta.shape)
        if not isinstance(value, int | float) or None in sizes:
            return False

        kwargs = {"dtype": meta.dtype}
        self.operand_of[node] = self._add(_aten.full.default, (sizes, value), meta, kwargs)
        return True

    def _read_sum(self, node: fx.Node) -> bool:
        """`0 + x`, the first step of a sum, is made like the other steps: zeros + x."""
        x, number = node.args
        meta = _node_meta(node)
        sizes = self._size_operands(meta.shape)
        is_zero_plus = not isinstance(number, fx.Node) and number == 0
        if not self._sums_begin_with_zero:
            return False
        if not is_zero_plus or node.kwargs or None in sizes:
            return False

        zeros = self._add(_aten.full.default, (sizes, 0), meta, {"dtype": meta.dtype})
        args = (zeros, self.complete(self.operand(x)))
        self.operand_of[node] = self._add(node.target, args, meta, path=_module_path(node))
        return True

    def _read_part(self, node: fx.Node) -> bool:
        """`parts[i]`: one of several results."""
        source, index = full_args(node)
        if not isinstance(source, fx.Node) or not isinstance(index, int):
            return False

        if source in self.parts_of:
            self.operand_of[node] = self.parts_of[source][index]
        else:
            self.operand_of[node] = Ref(self.operand_of[source].value, index)
        return True

    def _read_unchanged(self, node: fx.Node) -> bool:
        """An operator that returns its operand."""
        self.operand_of[node] = self.operand(node.args[0])
        return True

    def _read_copy(self, node: fx.Node) -> bool:
        """`copy(a, b)` is b, where both have the same shape and dtype."""
        target, value, _ = full_args(node)
        if _node_meta(target) != _node_meta(value):
            return False
        self.operand_of[node] = self.operand(value)
        return True

    def _read_select(self, node: fx.Node) -> bool:
        """`x[:, t]`."""
        source, dim, index = full_args(node)
        shape = shape_of(source)
        dim %= len(shape)
        size = shape[dim]
        if not isinstance(index, int) or not isinstance(size, int):
            return False

        self.operand_of[node] = self._slice(self.operand(source), dim, index % size)
        return True

    def _read_slice(self, node: fx.Node) -> bool:
        """`x[:, t:t+1]`, and `x[:]`."""
        source, dim, start, end, step = full_args(node)
        shape = shape_of(source)
        size = shape[dim]
        if step != 1 or not isinstance(start, int | None):
            return False
        if _is_whole_axis(start, end, size):
            return self._read_unchanged(node)
        if not isinstance(size, int) or not isinstance(end, int | None):
            return False

        first, stop, _ = slice(start, end).indices(size)
        dim %= len(shape)
        operand = self.operand(source)
        if stop - first == 1:
            self.operand_of[node] = self._slice(operand, dim, first, keep=True)
            return True
        is_written = self._is_filled_along(operand, dim) or _is_written_along(source, dim)
        is_in_steps = is_written or (dim, stop - first) in self._windows
        if not is_in_steps and not self._is_of_one_pass(size, stop - first):
            return False
        self.operand_of[node] = self._stack_slices(
            operand, dim, range(first, stop), _node_meta(node)
        )
        return True

    def _is_of_one_pass(self, size: int, length: int) -> bool:
        """Whether a part of an axis may be what one pass of a loop takes of a sequence."""
        return size == self._time and 1 < length <= self._multiple

    def _stack_slices(self, operand: Any, dim: int, steps: range, meta: Any) -> Ref:
        """A part of an axis as a stack of its steps, which are those of all passes."""
        slices = tuple(self._slice(operand, dim, index) for index in steps)
        return self._add(_aten.stack.default, (self.complete(slices), dim), meta)

    def _read_index(self, node: fx.Node) -> bool:
        """`x[[t]]` and `x[:, [t]]`, where t is a number."""
        source, indices = full_args(node)
        given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
        dim, index = given[0]
        number = self._steps.get(index)
        size = shape_of(source)[dim]
        if number is None or len(given) > 1 or not isinstance(size, int):
            return False

        step, keep = int(number) % size, number.dim() == 1
        self.operand_of[node] = self._slice(self.operand(source), dim, step, keep=keep)
        return True

    def _read_unbind(self, node: fx.Node) -> bool:
        """`x.unbind(1)`, or `for x_t in x`."""
        source, dim = full_args(node)
        operand, shape = self.operand(source), shape_of(source)

        dim %= len(shape)
        count = _known_size(shape[dim])
        self.parts_of[node] = [self._slice(operand, dim, index) for index in range(count)]
        return True

    def _read_split(self, node: fx.Node) -> bool:
        """`x.split(1, dim)` and `x.chunk(n, dim)`, where every part is what one pass takes."""
        source, _, dim = full_args(node)
        parts = _node_meta(node)
        dim %= len(shape_of(source))
        operand, size = self.operand(source), shape_of(source)[dim]
        if all(part.shape[dim] == 1 for part in parts):
            indices = range(len(parts))
            self.parts_of[node] = [self._slice(operand, dim, index, keep=True) for index in indices]
            return True
        if not all(self._is_of_one_pass(size, part.shape[dim]) for part in parts):
            return False

        first, stacks = 0, []
        for part in parts:
            steps = range(first, first + part.shape[dim])
            stacks.append(self._stack_slices(operand, dim, steps, part))
            first = steps.stop
        self.parts_of[node] = stacks
        return True

    def _read_select_scatter(self, node: fx.Node) -> bool:
        """`x[:, t] = y`, as a new x."""
        target, value, dim, index = full_args(node)
        shape = shape_of(target)
        dim %= len(shape)
        size = shape[dim]
        if not isinstance(index, int) or not isinstance(size, int):
            return False

        self._fill(node, dim, {index % size: self.operand(value)})
        return True

    def _fill(self, node: fx.Node, dim: int, steps: Mapping[int, Any]) -> None:
        """Reads a node that writes steps along an axis into its first operand."""
        before = self.operand(node.args[0])
        written: dict[int, Any] = {}
        if self._is_filled_along(before, dim):
            filled = self._filled[before.value]
            before, written = filled.before, dict(filled.written)

        self._filled[self._next] = _Filled(before, dim, {**written, **steps})
        self.operand_of[node] = self._describe_next(_node_meta(node))

    def _read_slice_scatter(self, node: fx.Node) -> bool:
        """`x[:] = y` is y, where both have the same shape and dtype; and `x[:, t:t+4] = y`."""
        target, value, dim, start, end, step = full_args(node)
        shape = shape_of(target)
        dim %= len(shape)
        if step != 1:
            return False
        if _is_whole_axis(start, end, shape[dim]):
            if _node_meta(target) != _node_meta(value):
                return False
            self.operand_of[node] = self.operand(value)
            return True
        return self._read_written_part(node, value, dim, start, end)

    def _read_written_part(
        self, node: fx.Node, value: fx.Node, dim: int, start: Any, end: Any
    ) -> bool:
        """`x[:, t:t+4] = y`, where that is what one pass of a loop writes."""
        size = shape_of(node)[dim]
        is_known = isinstance(start, int | None) and isinstance(end, int | None)
        if not is_known or not isinstance(size, int):
            return False

        first, stop, _ = slice(start, end).indices(size)
        if not self._is_of_one_pass(size, stop - first):
            return False
        steps = range(first, stop)
        operand = self.operand(value)
        self._fill(node, dim, {at: self._slice(operand, dim, at - first) for at in steps})
        return True


_SPECIAL: Final[dict[Any, Callable[[Reader, fx.Node], bool]]] = {
    **dict.fromkeys(_UNCHANGED, Reader._read_unchanged),
    **dict.fromkeys((*_VALUES, *_FILLS), Reader._read_constant),
    operator.getitem: Reader._read_part,
    _aten.add.Tensor: Reader._read_sum,
    _aten.copy.default: Reader._read_copy,
    _aten.select.int: Reader._read_select,
    _aten.slice.Tensor: Reader._read_slice,
    _aten.index.Tensor: Reader._read_index,
    _aten.unbind.int: Reader._read_unbind,
    _aten.split.Tensor: Reader._read_split,
    _aten.split_with_sizes.default: Reader._read_split,
    _aten.select_scatter.default: Reader._read_select_scatter,
    _aten.slice_scatter.default: Reader._read_slice_scatter,
}


def full_args(node: fx.Node) -> tuple[Any, ...]:
    """A node's arguments by position, with defaults for those that are left out."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.args

    arguments = node.target._schema.arguments[len(node.args) :]
    rest = (node.kwargs.get(argument.name, argument.default_value) for argument in arguments)
    return (*node.args, *rest)


def _is_written_along(node: fx.Node, axis: int) -> bool:
    """Whether a tensor is filled step by step along an axis from here on."""
    pending = [behind_whole_slices(node)]
    while pending:
        current = pending.pop()
        for user in current.users:
            if user.target is _aten.slice.Tensor and _is_whole(user):
                pending.append(user)
            is_written = user.target is _aten.select_scatter.default and user.args[0] is current
            if is_written and full_args(user)[2] % len(shape_of(current)) == axis:
                return True
    return False


def behind_whole_slices(node: fx.Node) -> fx.Node:
    """The node itself, or what slices as `x[:]` take as it is."""
    while node.target is _aten.slice.Tensor and _is_whole(node):
        node = full_args(node)[0]
    return node


def _is_whole(node: fx.Node) -> bool:
    """Whether a slice takes its operand as it is, as `x[:]`."""
    source, dim, start, end, step = full_args(node)
    return step == 1 and _is_whole_axis(start, end, shape_of(source)[dim])


def _is_whole_axis(start: Any, end: Any, size: int | str) -> bool:
    """Whether a slice from `start` to `end` takes an axis of this size as it is."""
    if start not in (0, None):
        return False
    return end in (None, _END) or bool(end == size)


def _known_size(size: int | str) -> int:
    if not isinstance(size, int):
        raise ExportError(f"its forward loops over the axis {size!r}, which is not time")
    return size


def shape_of(node: fx.Node) -> tuple[int | str, ...]:
    """The shape of a node's value, as in `TensorMeta`."""
    shape: tuple[int | str, ...] = _node_meta(node).shape
    return shape


def _node_meta(node: fx.Node) -> Any:
    return _describe(node.meta["val"])


def _describe(value: Any) -> Any:
    """Describes a traced value as `Unrolled.metas` does."""
    if isinstance(value, Tensor):
        shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
        return TensorMeta(shape, value.dtype)
    if isinstance(value, list | tuple):
        return [*map(_describe, value)]
    return str(value)


def _module_path(node: fx.Node) -> str:
    """The module in which a node was called, below the network that is exported."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return paths[-1] if paths else ""
