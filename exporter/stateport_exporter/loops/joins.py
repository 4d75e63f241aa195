# SPDX-License-Identifier: Apache-2.0
"""Stacks and concatenations of the steps of a sequence, and the last state of a loop.

After a loop is rolled up, what used the result of each of its blocks uses a slice of a sequence.
These slices are taken together again here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from ..network.program import Body, Op, Ref, Slice, exchange, exchange_all
from ..network.scan import scan
from .blocks import FEWEST_STEPS
from .trace import OpWriter, Unrolled, index_of, meta_of

_aten: Final = torch.ops.aten
#: The operators that put steps together.
_JOINS: Final = (_aten.stack.default, _aten.cat.default)


def join_steps(trace: Unrolled) -> None:
    """Takes a sequence as a whole where its steps are stacked or concatenated one by one."""
    writer = OpWriter(trace.metas)
    for op in trace.ops:
        items = op.args[0] if op.target in _JOINS else ()
        runs = _runs_of(items)
        if not _has_long_run(runs):  # as where part of each step's result is joined
            runs = _runs_of([_step_last(item) for item in items])
        has_long_run = _has_long_run(runs)
        # The joined operation comes after those that prepare its operands.
        joined = _join_runs(writer, op, runs) if has_long_run else op
        writer.ops.append(joined)
    trace.ops = writer.ops


def _has_long_run(runs: Sequence[Sequence[Any]]) -> bool:
    return any(len(run) >= FEWEST_STEPS for run in runs)


def _step_last(item: Any) -> Any:
    """A slice of a slice, in the other order: `x[t][:, 0]` becomes `x[:, :, 0][t]`."""
    if not isinstance(item, Slice):
        return item
    first = _step_last(item.source)
    if not isinstance(first, Slice) or (first.keep and first.dim == item.dim):
        return item

    is_shifted = not first.keep and item.dim >= first.dim
    dim = item.dim + is_shifted
    part = replace(item, source=first.source, dim=dim)
    return replace(first, source=part, dim=first.dim - (not item.keep and dim < first.dim))


def _runs_of(items: Sequence[Any]) -> list[list[Any]]:
    """Items that are stacked or concatenated, in runs of consecutive slices."""
    runs: list[list[Any]] = []
    for item in items:
        if runs and _continues(runs[-1], item):
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


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
