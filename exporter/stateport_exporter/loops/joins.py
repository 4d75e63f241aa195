# SPDX-License-Identifier: Apache-2.0
"""Stacks and concatenations of the steps of a sequence or of one tensor, and last states of loops.

After a loop is rolled up, what used the result of each of its blocks uses a slice of a sequence.
These slices are taken together again here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from ..network.program import Body, Op, Ref, Slice, exchange, exchange_all
from ..network.scan import scan
from .blocks import FEWEST_STEPS
from .trace import OpWriter, Unrolled, index_of, meta_of, renumber_values

_aten: Final = torch.ops.aten


def join_steps(trace: Unrolled) -> None:
    """Takes a sequence as a whole where its steps are stacked or concatenated one by one."""
    writer = OpWriter(trace.metas)
    for op in trace.ops:
        # The joined operation comes after those that prepare its operands.
        writer.ops.append(_joined(writer, op))
    trace.ops = writer.ops


def _joined(writer: OpWriter, op: Op) -> Op:
    """An operation with whole sequences in place of their steps, where it joins such steps.

    Where each pass of a loop gives several steps, these are joined first, and then the passes.
    """
    turns = _turns_joined_by(op)
    if turns:
        return _join_turns(writer, op, turns)

    runs = _runs_joined_by(op)
    if not any(len(run) >= FEWEST_STEPS for run in runs):
        return op
    joined = _join_runs(writer, op, runs)
    is_shorter = len(joined.args[0]) < len(op.args[0])
    return _joined(writer, joined) if is_shorter else joined


def _runs_joined_by(op: Op) -> list[list[Any]]:
    """The items that an operation stacks or concatenates, in runs of consecutive slices."""
    if op.target not in (_aten.stack.default, _aten.cat.default):
        return []

    items = op.args[0]
    depth = max(map(_depth, items), default=0)
    orders = [_runs(_with_outer(item, level) for item in items) for level in range(max(depth, 1))]
    return min(orders, key=len)


def _turns_joined_by(op: Op) -> list[list[Any]]:
    """The runs that an operation stacks or concatenates in turns, as `ys += [a, b]` makes them."""
    if op.target not in (_aten.stack.default, _aten.cat.default):
        return []

    items = op.args[0]
    for count in range(2, len(items) // FEWEST_STEPS + 1):
        turns = [list(items[first::count]) for first in range(count)]
        if len(items) % count == 0 and all(len(_runs(turn)) == 1 for turn in turns):
            is_stack = op.target is _aten.stack.default
            are_alike = len({(turn[0].dim, turn[0].keep) for turn in turns}) == 1
            return turns if are_alike and is_stack != turns[0][0].keep else []
    return []


def _join_turns(writer: OpWriter, op: Op, turns: Sequence[list[Any]]) -> Op:
    """A stack or concatenation of runs in turns as one of whole runs, a step of each in turn."""
    is_stack = op.target is _aten.stack.default
    rank = len(writer.metas[op.result].shape)
    dim = (*op.args, 0)[1] % rank

    items = []
    for run in turns:
        whole = _take_run(writer, run, dim, is_stack=is_stack)
        items.append(writer.unsqueeze(whole, dim + 1))

    shape = list(meta_of(items[0], writer.metas).shape)
    shape[dim + 1] = len(items)
    meta = replace(meta_of(items[0], writer.metas), shape=tuple(shape))
    joined = writer.add(_aten.cat.default, (tuple(items), dim + 1), meta)
    return replace(op, target=torch.flatten, args=(joined, dim, dim + 1), kwargs=())


def _runs(items: Iterable[Any]) -> list[list[Any]]:
    """The items in runs of consecutive slices."""
    runs: list[list[Any]] = []
    for item in items:
        if runs and _continues(runs[-1], item):
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def _depth(item: Any) -> int:
    """How many slices are taken of each other: 2 for `x[:, t][:, 0]`."""
    return 1 + _depth(item.source) if isinstance(item, Slice) else 0


def _with_outer(item: Any, level: int) -> Any:
    """The same slice, with the one that is `level` slices inside of it taken last.

    A step of which a part is taken, `y[t][:, 0]`, is the step of that part of the sequence,
    `y[:, :, 0][t]`, and the parts of all steps can be taken together.
    """
    if level == 0 or _depth(item) < 2:
        return item

    first = _with_outer(item.source, level - 1)
    exchanged = _exchanged(replace(item, source=first))
    return item if exchanged is None else exchanged


def _exchanged(outer: Slice) -> Slice | None:
    """A slice of a slice, taken in the other order; None where both are of one axis."""
    inner = outer.source
    assert isinstance(inner, Slice)
    if inner.keep and inner.dim == outer.dim:
        return None

    is_behind = not inner.keep and outer.dim >= inner.dim
    first = replace(outer, source=inner.source, dim=outer.dim + is_behind)
    is_moved = not first.keep and inner.dim > first.dim
    return replace(inner, source=first, dim=inner.dim - is_moved)


def _continues(run: Sequence[Any], item: Any) -> bool:
    """Whether an item is the next slice of the run's sequence, in the run's direction."""
    last = run[-1]
    if not isinstance(last, Slice) or not isinstance(item, Slice):
        return False
    if (last.source, last.dim, last.keep) != (item.source, item.dim, item.keep):
        return False

    stride = index_of(item) - index_of(last)
    if len(run) > 1:
        return stride == index_of(last) - index_of(run[-2])
    return stride in (-1, 1)


def _join_runs(writer: OpWriter, op: Op, runs: Sequence[list[Any]]) -> Op:
    """A stack or concatenation as one concatenation, which takes long runs as a whole."""
    is_stack = op.target is _aten.stack.default
    rank = len(writer.metas[op.result].shape)
    dim = (*op.args, 0)[1] % rank

    items: list[Any] = []
    for run in runs:
        if len(run) >= FEWEST_STEPS:
            items.append(_take_run(writer, run, dim, is_stack=is_stack))
        elif is_stack:
            items += [writer.unsqueeze(item, dim) for item in run]
        else:
            items += run
    return replace(op, target=_aten.cat.default, args=(tuple(items), dim), kwargs=())


def _take_run(writer: OpWriter, run: Sequence[Slice], dim: int, *, is_stack: bool) -> Ref | Slice:
    """The slices of a run as one tensor, to be concatenated with others along `dim`."""
    tensor = _take_sequence(writer, run)
    axis = run[0].dim
    if run[0].keep:
        if axis == dim:
            return tensor
        tensor = writer.unsqueeze(tensor, axis)
        tensor = writer.move_axis(tensor, axis + 1, dim)
        return writer.flatten(tensor, dim)

    if axis != dim:
        tensor = writer.move_axis(tensor, axis, dim)
    return tensor if is_stack else writer.flatten(tensor, dim)


def _take_sequence(writer: OpWriter, run: Sequence[Slice]) -> Ref | Slice:
    """The part of its sequence that a run covers, in the order of the run."""
    tensor, axis = run[0].source, run[0].dim
    first, last = index_of(run[0]), index_of(run[-1])

    size = meta_of(tensor, writer.metas).shape[axis]
    if len(run) != size:
        tensor = writer.narrow(tensor, axis, min(first, last), len(run))
    if first > last:
        tensor = writer.flip(tensor, axis)
    return tensor


def repeat_equal_items(trace: Unrolled) -> None:
    """Repeats a tensor where it is stacked or concatenated with itself, once for each step.

    So is a list of the last state, or of a tensor that every step writes into.
    """
    writer = OpWriter(trace.metas)
    for op in trace.ops:
        is_join = op.target in (_aten.stack.default, _aten.cat.default)
        is_repeated = is_join and len(op.args[0]) >= FEWEST_STEPS and len({*op.args[0]}) == 1
        writer.ops.append(_repetition(writer, op) if is_repeated else op)
    trace.ops = writer.ops
    renumber_values(trace)


def _repetition(writer: OpWriter, op: Op) -> Op:
    """A stack or concatenation of equal items as a repetition of one."""
    items = op.args[0]
    rank = len(writer.metas[op.result].shape)
    dim = (*op.args, 0)[1] % rank
    is_stack = op.target is _aten.stack.default
    item = writer.unsqueeze(items[0], dim) if is_stack else items[0]

    repeats = [1] * rank
    repeats[dim] = len(items)
    return replace(op, target=_aten.repeat.default, args=(item, tuple(repeats)), kwargs=())


def take_last_states(trace: Unrolled) -> None:
    """Takes a loop's last state in place of the last step of an output that equals the state."""
    bodies = {op.result: op.args[0] for op in trace.ops if op.target is scan}

    def change(item: Ref | Slice) -> Any:
        if isinstance(item, Ref):
            return item
        state = _last_state(item, trace, bodies)
        if state is not None:
            return state
        return replace(item, source=change(item.source))

    trace.ops = [exchange_all(op, change) for op in trace.ops]
    trace.outputs = exchange(trace.outputs, change)


def _last_state(part: Slice, trace: Unrolled, bodies: Mapping[int, Body]) -> Ref | None:
    """The last state that a slice equals, if it is the last step of a loop's output."""
    source = part.source
    if not isinstance(source, Ref) or source.value not in bodies:
        return None

    body = bodies[source.value]
    assert source.part is not None
    output = body.program.outputs[source.part]
    states = body.program.outputs[: body.states]
    count = trace.meta(source).shape[0]
    is_last_step = part.dim == 0 and part.index == count - 1 and not part.keep
    if not is_last_step or output not in states:
        return None
    return Ref(source.value, states.index(output))
