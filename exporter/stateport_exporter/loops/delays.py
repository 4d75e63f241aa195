# SPDX-License-Identifier: Apache-2.0
"""Values that a loop keeps for more than one step, as `p2, p1 = p1, new` and `previous = x_t` do.

Such a value moves from name to name. That is no operation, so a trace shows it as a use of a value
of several blocks before, or of a former slice of a sequence. The first steps use something else, as
there is no such value yet. Here copies are written into each block: one of the block's own value if
it is a slice, one of the value of the block before, one of the copy of the block before, and so on.
Then each block uses results of the block before it alone, as `blocks` expects.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch

from ..network.program import Op, Ref, Slice, exchange, operands, refs, with_operands
from .blocks import OperandPath, Position
from .trace import OpWriter, TensorMeta, Unrolled, index_of

_aten: Final = torch.ops.aten

#: An operation's position in the trace, and where an operand is in it.
_Place = tuple[Position, OperandPath]


@dataclass(frozen=True)
class _Run:
    """Uses at one place of consecutive blocks: each block uses the next value.

    Attributes:
        places: where the uses are, one for each block.
        value: what the first of them uses.
        stride: by how much the index of a slice grows; 0 for values that are computed.
        made_at: the operation that makes the first value, or of a slice, the first to use it.
        before: what blocks before the first use in the same place, the latest block first. There
            are as many as there are blocks between the value and its use.
    """

    places: Sequence[_Place]
    value: Ref | Slice
    stride: int
    made_at: Position
    before: Sequence[Ref | Slice]


@dataclass
class _Chain:
    """The copies of one value in all blocks.

    Attributes:
        run: the longest of the runs that use them.
        values: the values of all blocks.
        copies: for each block, what holds its own value, that of the block before, and so on.
        last_at: where the last block's value is made or first used.
        used: how many blocks have copies that later steps use.
    """

    run: _Run
    values: list[Ref | Slice] = field(default_factory=list)
    copies: list[list[Ref]] = field(default_factory=list)
    last_at: Position = -1
    used: int = 0

    def serves(self, run: _Run) -> bool:
        """Whether the copies are those that another run uses."""
        mine = self.run
        if (run.value, run.made_at, run.stride) != (mine.value, mine.made_at, mine.stride):
            return False
        return mine.before[: len(run.before)] == run.before

    def edits(self, run: _Run) -> Iterator[tuple[_Place, Ref]]:
        """What a run uses from now on, by the place; the blocks before it included."""
        delay = len(run.before)
        position, path = run.places[0]
        period = run.places[1][0] - position
        first = position - delay * period
        for block in range(delay + len(run.places)):
            yield (first + block * period, path), self.copies[block][delay]

    def kept_by_last_block(self) -> dict[Ref | Slice, Ref]:
        """The copies that the last block has of its own value and of those before."""
        return dict(zip(reversed(self.values), self.copies[-1], strict=False))


def with_delays(trace: Unrolled, period: int) -> Unrolled | None:
    """The trace with copies of what blocks of `period` operations use of earlier blocks.

    It computes the same. None if no block uses a value for longer than until the next one.
    """
    runs = _Search(trace, period).delayed_runs()
    if not runs:
        return None

    return _CopyWriter(trace, period, runs).write()


class _Search:
    """Looks for uses of earlier blocks' values."""

    def __init__(self, trace: Unrolled, period: int) -> None:
        self.trace = trace
        self.ops = trace.ops
        self.period = period
        self.position_of = {op.result: position for position, op in enumerate(trace.ops)}
        self.leaves = [dict(_leaves(operands(op), ())) for op in trace.ops]
        self.first_uses: dict[Slice, Position] = {}
        for position, leaves in enumerate(self.leaves):
            for leaf in leaves.values():
                if isinstance(leaf, Slice):
                    self.first_uses.setdefault(replace(leaf, keep=False), position)

    def delayed_runs(self) -> list[_Run]:
        """The runs of uses that are late, those that are late by most blocks first."""
        found = []
        for position, leaves in enumerate(self.leaves):
            for path in leaves:
                run = self._run_from((position, path))
                if run is not None:
                    found.append(run)

        # A slice may be used in no other way, so that its own block does not use it at all.
        unused = [run for run in found if run.stride and run.made_at == run.places[0][0]]
        sequences = {_sequence_of(run.value) for run in unused}
        delayed = []
        for run in found:
            is_unused = run.stride != 0 and _sequence_of(run.value) in sequences
            completed = self._with_before(run, run.made_at - is_unused * self.period)
            if completed is not None:
                delayed.append(completed)
        return sorted(delayed, key=lambda run: -len(run.before))

    def _run_from(self, start: _Place) -> _Run | None:
        """The run that begins at a place, without what is before it; None where none begins."""
        stride = self._stride_to(self._next(start))
        if stride is None or self._stride_to(start) == stride:
            return None

        places = [start, self._next(start)]
        while self._stride_to(self._next(places[-1])) == stride:
            places.append(self._next(places[-1]))

        values = [self.leaves[position][path] for position, path in places]
        made_at = [*map(self._made_at, values)]
        if any(later - earlier != self.period for earlier, later in itertools.pairwise(made_at)):
            return None
        if stride != 0 and not self._is_same_operation(start[0] - self.period, start):
            return None
        return _Run(places, values[0], stride, made_at[0], ())

    def _with_before(self, run: _Run, made_at: Position) -> _Run | None:
        """A run with what the blocks before it use; None if it is not late, or they do not fit."""
        start = run.places[0]
        late_by = start[0] - made_at
        if run.stride == 0 and late_by <= self.period:
            return None

        before = []
        for number in range(1, late_by // self.period + 1):
            position = start[0] - number * self.period
            if not self._is_same_operation(position, start):
                return None
            leaf = self.leaves[position][start[1]]
            if any(self._made_at(ref) >= made_at for ref in refs(leaf)):
                return None
            before.append(leaf)
        return replace(run, made_at=made_at, before=tuple(before))

    def _next(self, place: _Place) -> _Place:
        return place[0] + self.period, place[1]

    def _stride_to(self, place: _Place) -> int | None:
        """By how much the index of a slice grew since the block before; 0 for computed values.

        None if the block before has no such value.
        """
        position, path = place
        if not self._is_same_operation(position - self.period, place):
            return None

        earlier, later = self.leaves[position - self.period][path], self.leaves[position][path]
        if isinstance(earlier, Ref) and isinstance(later, Ref):
            return 0 if self._is_next_result(earlier, later) else None
        if isinstance(earlier, Slice) and isinstance(later, Slice):
            return _stride_between(earlier, later)
        return None

    def _is_next_result(self, earlier: Ref, later: Ref) -> bool:
        """Whether two values are results of the same operation in one block and the next."""
        first, second = self._made_at(earlier), self._made_at(later)
        if first < 0 or second - first != self.period or earlier.part != later.part:
            return False
        return self.ops[first].target is self.ops[second].target

    def _is_same_operation(self, position: Position, place: _Place) -> bool:
        """Whether the operation at a position is that at a place, with a tensor of the same dtype.

        It has the same weights, and at the place's path another value.
        """
        if not 0 <= position < len(self.ops) or place[0] >= len(self.ops):
            return False
        if self.ops[position].target is not self.ops[place[0]].target:
            return False

        leaves, others = self.leaves[position], self.leaves[place[0]]
        if place[1] not in leaves or place[1] not in others:
            return False
        metas = self.trace.meta(leaves[place[1]]), self.trace.meta(others[place[1]])
        is_tensor = all(isinstance(meta, TensorMeta) for meta in metas)
        if not is_tensor or metas[0].dtype != metas[1].dtype:
            return False
        return self._weights(leaves) == self._weights(others)

    def _weights(self, leaves: Mapping[OperandPath, Ref | Slice]) -> dict[OperandPath, Ref]:
        """The parameters and constants among some operands, by their paths."""
        weights = {}
        for path, leaf in leaves.items():
            if isinstance(leaf, Ref) and self.trace.arguments <= leaf.value < self.trace.inputs:
                weights[path] = leaf
        return weights

    def _made_at(self, leaf: Ref | Slice) -> Position:
        """The operation that computes a value, or is the first to use a slice."""
        if isinstance(leaf, Ref):
            return self.position_of.get(leaf.value, -1)
        return self.first_uses[replace(leaf, keep=False)]


class _CopyWriter:
    """Writes the copies that runs need into a trace."""

    def __init__(self, trace: Unrolled, period: int, runs: Sequence[_Run]) -> None:
        self.trace = trace
        self.period = period
        self.runs = runs
        self.writer = OpWriter(dict(trace.metas))
        #: The copies in front of each operation.
        self.copies: defaultdict[Position, list[Op]] = defaultdict(list)
        self.chains: list[_Chain] = []
        self.edits: dict[_Place, Ref] = {}

    def write(self) -> Unrolled:
        """The trace with all copies."""
        for run in self.runs:
            chain = next((chain for chain in self.chains if chain.serves(run)), None)
            if chain is None:
                chain = self._add_chain(run)
            used = len(run.before) + len(run.places)
            if used <= len(chain.copies):
                chain.used = max(chain.used, used)
                self.edits |= dict(chain.edits(run))

        outputs = self.trace.outputs
        for chain in self.chains:
            kept = chain.kept_by_last_block()
            outputs = _replaced(outputs, kept)
            self._edit_uses_after(chain, kept)
        ops = [*self._operations()]
        unused = self._unused_copies(ops, outputs)
        ops = [op for op in ops if op.result not in unused]
        return replace(self.trace, ops=ops, outputs=outputs, metas=self.writer.metas)

    def _unused_copies(self, ops: Sequence[Op], outputs: tuple[Any, ...]) -> set[int]:
        """The copies in blocks behind the last use that nothing uses: of each block all or none.

        What follows the loop may look like another block of it.
        """
        users: defaultdict[int, set[int]] = defaultdict(set)
        for op in ops:
            for ref in refs(operands(op)):
                users[ref.value].add(op.result)
        returned = {ref.value for ref in refs(outputs)}

        unused: set[int] = set()
        for chain in self.chains:
            for copies in reversed(chain.copies[chain.used :]):
                written = {copy.value for copy in copies} - self.trace.metas.keys()
                if any(users[copy] - unused for copy in written) or written & returned:
                    break
                unused |= written
        return unused

    def _edit_uses_after(self, chain: _Chain, kept: dict[Ref | Slice, Ref]) -> None:
        """Lets what follows the loop use the copies of the last block, if it uses no others."""
        earlier = set(chain.values) - kept.keys()
        edits: dict[_Place, Ref] = {}
        for position in range(chain.last_at + 1, len(self.trace.ops)):
            leaves = dict(_leaves(operands(self.trace.ops[position]), ()))
            used = {
                path: leaf for path, leaf in leaves.items() if (position, path) not in self.edits
            }
            if len(set(used.values()) & set(chain.values)) > len(kept):
                continue  # all steps in one tensor
            if not earlier.isdisjoint(used.values()):
                return
            edits |= {(position, path): kept[leaf] for path, leaf in used.items() if leaf in kept}
        self.edits |= edits

    def _operations(self) -> Iterator[Op]:
        """All operations; those of the trace use copies where they have to."""
        edits_of: defaultdict[Position, dict[OperandPath, Ref]] = defaultdict(dict)
        for (position, path), copy in self.edits.items():
            edits_of[position][path] = copy

        for position, op in enumerate(self.trace.ops):
            yield from self.copies[position]
            yield _edited(op, edits_of[position]) if position in edits_of else op

    def _add_chain(self, run: _Run) -> _Chain:
        """Writes copies into each block that has such a value."""
        chain = _Chain(run)
        for block, value in enumerate(_values_of(run, self.trace, self.period)):
            own = value if isinstance(value, Ref) else self._copy(value, run)
            copies = [own]
            for delay, initial in enumerate(run.before):
                source = chain.copies[-1][delay] if block > 0 else initial
                copies.append(self._copy(source, run))
            chain.values.append(value)
            chain.copies.append(copies)

            # A copy comes before what it is a copy of in the next block. So there is at most one
            # block's beginning between both.
            chain.last_at = run.made_at + block * self.period
            written, self.writer.ops = self.writer.ops, []
            self.copies[chain.last_at] += reversed(written)
        self.chains.append(chain)
        return chain

    def _copy(self, source: Ref | Slice, run: _Run) -> Ref:
        return self.writer.add(_aten.clone.default, (source,), self.trace.meta(run.value))


def _values_of(run: _Run, trace: Unrolled, period: int) -> Iterator[Ref | Slice]:
    """The values of all blocks that have one, from that of the first use on."""
    target = trace.ops[run.made_at].target
    for position in range(run.made_at, len(trace.ops), period):
        op = trace.ops[position]
        if op.target is not target:
            return

        if isinstance(run.value, Ref):
            yield replace(run.value, value=op.result)
            continue
        index = index_of(run.value) + run.stride * ((position - run.made_at) // period)
        if not 0 <= index < trace.meta(run.value.source).shape[run.value.dim]:
            return
        yield replace(run.value, index=index)


def _replaced(operand: Any, values: Mapping[Ref | Slice, Ref]) -> Any:
    """The operand with other values in place of these."""
    return exchange(operand, lambda item: values.get(item, item))


def _leaves(operand: Any, path: OperandPath) -> Iterator[tuple[OperandPath, Ref | Slice]]:
    """The values and slices in an operand, by their paths as in `blocks.operand_at`."""
    if isinstance(operand, Ref | Slice):
        yield path, operand
    if isinstance(operand, Slice):
        yield from _leaves(operand.source, (*path, 0))
    if isinstance(operand, tuple):
        for index, item in enumerate(operand):
            yield from _leaves(item, (*path, index))


def _edited(op: Op, edits: dict[OperandPath, Ref]) -> Op:
    """The operation with other operands at these paths."""

    def change(operand: Any, path: OperandPath) -> Any:
        if path in edits:
            return edits[path]
        if isinstance(operand, Slice):
            return replace(operand, source=change(operand.source, (*path, 0)))
        if isinstance(operand, tuple):
            items = enumerate(operand)
            return tuple(change(item, (*path, index)) for index, item in items)
        return operand

    return with_operands(op, change(operands(op), ()))


def _stride_between(earlier: Slice, later: Slice) -> int | None:
    """By how much the index grows between slices of one sequence; None if not by 1 or -1."""
    if (earlier.source, earlier.dim, earlier.keep) != (later.source, later.dim, later.keep):
        return None
    stride = index_of(later) - index_of(earlier)
    return stride if stride in (-1, 1) else None


def _sequence_of(value: Ref | Slice) -> tuple[Any, int]:
    assert isinstance(value, Slice)
    return value.source, value.dim
