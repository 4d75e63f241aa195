# SPDX-License-Identifier: Apache-2.0
"""Finding the step that a written-out loop repeats.

The operations of a trace are in the order in which forward called them, so a loop over time is a
run of equal blocks. A block may use the next slice of a sequence, results of the block before it
(these are its state), and values from before the loop. Two traces of different lengths show which
axis is time: it is the one whose size differs. They also show which operations a loop calls that
takes no slice, as a decoder's: those that the longer trace has more often.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from stateport.picking import present, sure

from ..network.program import Op, Ref, Slice, operands, refs, slices
from .step_numbers import Law, is_number, law_of, takes_tensor
from .trace import TensorMeta, Unrolled, index_of

#: Fewer equal blocks, or slices in a row, are no loop.
FEWEST_STEPS: Final = 3
#: The number of distances between uses of a sequence that are tried as the length of a block.
_MOST_PERIODS: Final = 3

#: The index of an operation in a trace.
Position = int
#: Where an operand is in an operation: indices into nested tuples, and 0 for a slice's source.
OperandPath = tuple[int, ...]
#: Where an operand is in a step: the number of its operation in the block, and the path in it.
OperandKey = tuple[int, OperandPath]
#: Where a value of a loop is computed: the number of the block, and of the operation in it.
Location = tuple[int, int]
#: What is called: a function, and the path of the module that calls it.
Call = tuple[Any, str]


@dataclass
class Loop:
    """A run of equal blocks of operations.

    Attributes:
        blocks: for each block, the positions of its operations in the trace. In the last block an
            operation whose result is not used may be missing; its position is None.
        template: the number of the block that the others were compared with.
        strides: by how much the index of a slice grows from block to block; 0 where it stays.
        laws: how numbers follow from the number of the block, for those that differ.
    """

    blocks: list[Sequence[Position | None]]
    template: int
    strides: dict[OperandKey, int] = field(default_factory=dict)
    laws: dict[OperandKey, Law] = field(default_factory=dict)

    @property
    def start(self) -> Position:
        """The position of the loop's first operation."""
        return sure(self.blocks[0][0])

    @property
    def end(self) -> Position:
        """The position after the loop's last operation."""
        positions = itertools.chain.from_iterable(self.blocks)
        return 1 + max(present(positions))


def time_axes(short: Unrolled, long: Unrolled) -> Iterator[tuple[Ref | Slice, int]]:
    """The axes that are sliced step by step and grow with time, in the order of their first use.

    Yields the sequence and the number of its axis.
    """
    seen: set[tuple[Ref | Slice, int]] = set()
    for op in short.ops:
        for part in slices(operands(op)):
            sequence = part.source, part.dim
            if sequence in seen or not _has_values_of(part.source, long):
                continue
            seen.add(sequence)

            # Behind a loop, values of the same number need not be the same.
            short_shape = short.meta(part.source).shape
            long_shape = long.meta(part.source).shape
            is_same_rank = len(short_shape) == len(long_shape)
            if is_same_rank and short_shape[part.dim] != long_shape[part.dim]:
                yield sequence


def _has_values_of(operand: Ref | Slice, trace: Unrolled) -> bool:
    return all(_has_value(ref, trace) for ref in refs(operand))


def _has_value(ref: Ref, trace: Unrolled) -> bool:
    """Whether a trace has a value with this number, with as many parts."""
    meta = trace.metas.get(ref.value)
    if ref.part is None:
        return isinstance(meta, TensorMeta)
    return isinstance(meta, list) and ref.part < len(meta)


def calls_by_time(short: Unrolled, long: Unrolled) -> Iterator[Call]:
    """The operations that the longer trace calls more often, those that it calls least first."""
    calls = Counter(map(_call_of, short.ops)), Counter(map(_call_of, long.ops))
    for call, count in reversed(calls[1].most_common()):
        if count > calls[0][call] >= FEWEST_STEPS:
            yield call


@dataclass(frozen=True)
class Uses:
    """Operations of which each pass of a loop has one, or as many as others.

    Attributes:
        positions: where they are in the trace, in order.
        lengths: the usual numbers of operations from those of one pass to those of the next.
    """

    positions: Sequence[Position]
    lengths: Sequence[int]


def uses_of_call(trace: Unrolled, call: Call) -> Uses:
    """The operations that are this call."""
    positions = [position for position, op in enumerate(trace.ops) if _call_of(op) == call]
    return Uses(positions, _usual_distances(itertools.pairwise(positions)))


def uses_of_sequence(trace: Unrolled, source: Ref | Slice, dim: int) -> Uses:
    """The operations that use a slice of the sequence first."""
    position_of: dict[int, Position] = {}
    for position, op in enumerate(trace.ops):
        for part in slices(operands(op)):
            if (part.source, part.dim) == (source, dim):
                position_of.setdefault(index_of(part), position)

    positions = sorted(set(position_of.values()))
    if trace.multiple == 1:
        return Uses(positions, _usual_distances(itertools.pairwise(positions)))

    pairs = []
    for index, position in position_of.items():
        if index + trace.multiple in position_of:
            pairs.append(sorted((position, position_of[index + trace.multiple])))
    return Uses(positions, _usual_distances(pairs))


def _usual_distances(pairs: Iterable[Sequence[Position]]) -> list[int]:
    distances = Counter(later - earlier for earlier, later in pairs)
    return [distance for distance, _ in distances.most_common(_MOST_PERIODS)]


def _call_of(op: Op) -> Call:
    return op.target, op.path


def find_loop(trace: Unrolled, uses: Uses) -> Loop | None:
    """The best run of equal blocks around these operations, None without one."""
    if len(uses.positions) < FEWEST_STEPS:
        return None

    loops = _possible_loops(trace, uses)
    return max(loops, key=lambda loop: _rank_loop(trace, loop), default=None)


def _possible_loops(trace: Unrolled, uses: Uses) -> Iterator[Loop]:
    """The loops around a use in the middle, for the usual lengths and every first operation."""
    middle = uses.positions[len(uses.positions) // 2]
    for period in uses.lengths:
        for begin in range(middle, max(middle - period, -1), -1):
            for with_numbers in (False, True):
                loop = _blocks_around(trace, begin, period, with_numbers=with_numbers)
                if loop is not None and len(loop.blocks) >= FEWEST_STEPS:
                    yield loop


def _blocks_around(
    trace: Unrolled, begin: Position, period: int, *, with_numbers: bool
) -> Loop | None:
    """The run of blocks that equal the block of `period` operations at `begin`.

    `with_numbers` allows numbers that differ from block to block by a law.
    """
    if begin + period > len(trace.ops):
        return None

    matcher = _Matcher(trace, begin, period, with_numbers=with_numbers)
    after = matcher.blocks_after()
    before = matcher.blocks_before()
    blocks = [*before, matcher.template, *after]
    if not matcher.has_all_slices(-len(before), len(blocks)):
        return None

    laws = {key: _law_at(trace, blocks, key) for key in matcher.numbers}
    known = {key: law for key, law in laws.items() if law is not None}
    if len(known) < len(laws):
        return None
    return Loop(blocks, len(before), matcher.strides, known)


def _law_at(
    trace: Unrolled, blocks: Iterable[Sequence[Position | None]], key: OperandKey
) -> Law | None:
    """The law that the numbers at one place of all blocks follow."""
    offset, path = key
    positions = [block[offset] for block in blocks]
    return law_of([None if at is None else operand_at(trace.ops[at], path) for at in positions])


@dataclass(frozen=True)
class _Candidate:
    """A block that is compared with the template.

    Attributes:
        positions: where its operations are in the trace.
        previous: where the operations of the block before it are.
        distance: the number of blocks from the template to it, negative before the template.
        is_first: whether its state comes from before the loop, and not from a block before it.
    """

    positions: Sequence[Position | None]
    previous: Sequence[Position]
    distance: int
    is_first: bool = False


class _Matcher:
    """Compares blocks with the block of `period` operations at `begin`, the template."""

    def __init__(
        self, trace: Unrolled, begin: Position, period: int, *, with_numbers: bool
    ) -> None:
        self.trace = trace
        self.ops = trace.ops
        self.begin = begin
        self.period = period
        self.template = range(begin, begin + period)
        self.position_of = {op.result: position for position, op in enumerate(trace.ops)}
        #: As in `Loop`, for the slices of the template.
        self.strides: dict[OperandKey, int] = {}
        self.with_numbers = with_numbers
        #: Where numbers differ from those of the template.
        self.numbers: set[OperandKey] = set()

    def blocks_after(self) -> list[Sequence[Position | None]]:
        """The blocks after the template that equal it. The last one may miss operations."""
        blocks: list[Sequence[Position | None]] = []
        latest = self.template
        while (block := self._block_after(latest, len(blocks) + 1)) is not None:
            blocks.append(block)
            latest = block

        partial = self._partial_block_after(latest, len(blocks) + 1)
        if partial is not None:
            blocks.append(partial)
        return blocks

    def blocks_before(self) -> list[Sequence[Position | None]]:
        """The blocks before the template that equal it, in the order of the trace."""
        blocks: list[Sequence[Position | None]] = []
        earliest = self.template
        while (block := self._block_before(earliest, -len(blocks) - 1)) is not None:
            blocks.insert(0, block)
            earliest = block

        first = self._block_before(earliest, -len(blocks) - 1, is_first=True)
        if first is not None:
            blocks.insert(0, first)
        return blocks

    def _block_after(self, previous: range, distance: int) -> range | None:
        """The block after another one, if all of it equals the template."""
        block = range(previous.stop, previous.stop + self.period)
        if block.stop > len(self.ops):
            return None
        return block if self._is_equal(_Candidate(block, previous, distance)) else None

    def _block_before(
        self, following: range, distance: int, *, is_first: bool = False
    ) -> range | None:
        """The block before another one, if all of it equals the template."""
        block = range(following.start - self.period, following.start)
        if block.start < 0:
            return None

        previous = range(block.start - self.period, block.start)
        candidate = _Candidate(block, previous, distance, is_first)
        return block if self._is_equal(candidate) else None

    def _partial_block_after(
        self, previous: range, distance: int
    ) -> Sequence[Position | None] | None:
        """The last block, without the operations whose results are not used."""
        block: list[Position | None] = [None] * self.period
        candidate = _Candidate(block, previous, distance)
        position = previous.stop
        for offset in range(self.period):
            if position == len(self.ops):
                break
            block[offset] = position
            if self._is_same_operation(candidate, offset):
                position += 1
            else:
                block[offset] = None

        return block if position > previous.stop else None

    def has_all_slices(self, first: int, count: int) -> bool:
        """Whether every sequence has a slice for each of `count` blocks.

        `first` is the distance of the first block from the template. A sequence needs a slice even
        for a block that misses the operation that uses it.
        """
        for (offset, path), stride in self.strides.items():
            part = operand_at(self.ops[self.begin + offset], path)
            size = self.trace.meta(part.source).shape[part.dim]

            first_index = part.index + stride * first
            last_index = first_index + stride * (count - 1)
            if min(first_index, last_index) < 0 or max(first_index, last_index) >= size:
                return False
        return True

    def _is_equal(self, candidate: _Candidate) -> bool:
        offsets = range(self.period)
        return all(self._is_same_operation(candidate, offset) for offset in offsets)

    def _is_same_operation(self, candidate: _Candidate, offset: int) -> bool:
        """Whether one operation is the template's. Notes the strides of its slices if it is."""
        position = sure(candidate.positions[offset])
        expected, actual = self.ops[self.begin + offset], self.ops[position]
        if expected.target is not actual.target or len(expected.kwargs) != len(actual.kwargs):
            return False

        comparison = _Comparison(self, candidate, offset)
        if not comparison.is_same(operands(expected), operands(actual), ()):
            return False
        self.strides.update(comparison.strides)
        self.numbers |= comparison.numbers
        return True


class _Comparison:
    """Compares the operands of one operation with those of the template's operation."""

    def __init__(self, matcher: _Matcher, candidate: _Candidate, offset: int) -> None:
        self.matcher = matcher
        self.candidate = candidate
        self.offset = offset
        self.strides: dict[OperandKey, int] = {}
        self.numbers: set[OperandKey] = set()

    def is_same(self, expected: Any, actual: Any, path: OperandPath) -> bool:
        """Whether an operand has the role in its block that `expected` has in the template."""
        if isinstance(expected, Ref):
            return self._is_same_value(expected, actual)
        if isinstance(expected, Slice):
            return self._is_same_slice(expected, actual, path)
        if isinstance(expected, tuple):
            return self._are_same_items(expected, actual, path)
        if type(expected) is type(actual) and bool(expected == actual):
            return True
        return self._is_step_number(expected, actual, path)

    def _is_step_number(self, expected: Any, actual: Any, path: OperandPath) -> bool:
        """Whether two numbers may differ because they follow from the number of the step."""
        op = self.matcher.ops[self.matcher.begin + self.offset]
        if not self.matcher.with_numbers or not takes_tensor(op, path):
            return False
        if not is_number(expected) or type(expected) is not type(actual):
            return False

        self.numbers.add((self.offset, path))
        return True

    def _are_same_items(self, expected: tuple[Any, ...], actual: Any, path: OperandPath) -> bool:
        if not isinstance(actual, tuple) or len(expected) != len(actual):
            return False
        return all(
            self.is_same(expected[index], actual[index], (*path, index))
            for index in range(len(expected))
        )

    def _is_same_slice(self, expected: Slice, actual: Any, path: OperandPath) -> bool:
        if not isinstance(actual, Slice):
            return False
        if (expected.dim, expected.keep) != (actual.dim, actual.keep):
            return False
        if not self.is_same(expected.source, actual.source, (*path, 0)):
            return False

        return self._is_regular(expected, actual, (self.offset, path))

    def _is_regular(self, expected: Slice, actual: Slice, key: OperandKey) -> bool:
        """Whether the index grows by the same stride from block to block."""
        growth = index_of(actual) - index_of(expected)
        stride, rest = divmod(growth, self.candidate.distance)
        if rest != 0:
            return False
        if stride != 0 and not self._is_from_outside(expected.source):
            return False

        self.strides[key] = stride
        return self.matcher.strides.get(key, stride) == stride

    def _is_same_value(self, expected: Ref, actual: Any) -> bool:
        matcher, candidate = self.matcher, self.candidate
        position = matcher.position_of.get(expected.value, -1)

        is_of_template = position >= matcher.begin
        if is_of_template:
            counterpart = candidate.positions[position - matcher.begin]
            return self._is_result(actual, counterpart, expected.part)

        previous_begin = matcher.begin - matcher.period
        is_of_block_before = position >= previous_begin
        if is_of_block_before:
            if candidate.is_first:
                return self._is_from_before_loop(actual)
            return self._is_result(
                actual, candidate.previous[position - previous_begin], expected.part
            )

        return bool(expected == actual)

    def _is_result(self, operand: Any, position: Position | None, part: int | None) -> bool:
        """Whether an operand is this part of the result of the operation at a position."""
        if position is None or not isinstance(operand, Ref) or operand.part != part:
            return False
        return self.matcher.position_of.get(operand.value, -1) == position

    def _is_from_before_loop(self, operand: Any) -> bool:
        start = sure(self.candidate.positions[0])
        position_of = self.matcher.position_of
        return all(position_of.get(ref.value, -1) < start for ref in refs(operand))

    def _is_from_outside(self, source: Ref | Slice) -> bool:
        """Whether a sequence is computed in neither the template nor the block before it."""
        previous_begin = self.matcher.begin - self.matcher.period
        position_of = self.matcher.position_of
        return all(position_of.get(ref.value, -1) < previous_begin for ref in refs(source))


def operand_at(op: Op, path: OperandPath) -> Any:
    """The operand at a path in an operation."""
    operand: Any = operands(op)
    for index in path:
        operand = operand.source if isinstance(operand, Slice) else operand[index]
    return operand


def locate_values(trace: Unrolled, loop: Loop) -> dict[int, Location]:
    """The location of every value that the loop computes."""
    locations: dict[int, Location] = {}
    for number, block in enumerate(loop.blocks):
        for offset, position in enumerate(block):
            if position is not None:
                locations[trace.ops[position].result] = (number, offset)
    return locations


def used_after(trace: Unrolled, loop: Loop) -> Iterator[Ref]:
    """The values that are used after the loop, or returned."""
    for op in trace.ops[loop.end :]:
        yield from refs(operands(op))
    yield from refs(trace.outputs)


def _rank_loop(trace: Unrolled, loop: Loop) -> tuple[int, ...]:
    """The higher, the better: many blocks, none missing, whole sequences as outputs, few states."""
    locations = locate_values(trace, loop)
    missing = sum(block.count(None) for block in loop.blocks)
    irregular = _count_irregular_outputs(trace, loop, locations)
    states = _count_states(trace, loop, locations)
    return len(loop.blocks), -missing, -irregular, -states


def _count_irregular_outputs(trace: Unrolled, loop: Loop, locations: dict[int, Location]) -> int:
    """The number of operations whose results are used after the loop from only some blocks.

    It leaves out those of which only the last block's result is used: that is a last state.
    """
    blocks_used: dict[int, set[int]] = {}
    for ref in used_after(trace, loop):
        if ref.value in locations:
            block, offset = locations[ref.value]
            blocks_used.setdefault(offset, set()).add(block)

    count = len(loop.blocks)
    last_only = {count - 1}
    return sum(len(blocks) < count and blocks != last_only for blocks in blocks_used.values())


def _count_states(trace: Unrolled, loop: Loop, locations: dict[int, Location]) -> int:
    """The number of values that the second block takes from the first."""
    states = set()
    for position in loop.blocks[1]:
        if position is None:
            continue

        for ref in refs(operands(trace.ops[position])):
            location = locations.get(ref.value)
            if location is not None and location[0] == 0:
                states.add(ref)

    return len(states)
