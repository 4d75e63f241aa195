"""Finding the step that a written-out loop repeats.

Operations stand in the order in which forward called them, so a loop over time is a run of equal
blocks. A block may use a slice of a sequence (the next one in every block), what the block before
it computed (that is state), and what stands before the loop. Two traces of different lengths say
which axis is time: it is the one whose size differs.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch

from ..network.program import (
    Body,
    Op,
    Program,
    Ref,
    Slice,
    exchange,
    exchange_all,
    operands,
    refs,
    renumber,
    slices,
)
from ..network.scan import scan
from .unroll import TensorMeta, Unrolled

_aten: Final = torch.ops.aten
_FEWEST: Final = 3


def roll(short: Unrolled, long: Unrolled) -> bool:
    """Rolls up the first loop in two traces of different lengths; False where there is none."""
    for source, dim in _sequences(short, long):
        loops = [_find(trace, source, dim) for trace in (short, long)]
        if loops[0] is not None and loops[1] is not None:
            one, other = _rolled(short, loops[0]), _rolled(long, loops[1])
            if one is not None and other is not None:
                for trace, rolled in ((short, one), (long, other)):
                    trace.ops, trace.outputs, trace.metas = rolled
                    _join_steps(trace)
                    _renumber(trace)
                return True
    return False


def _sequences(short: Unrolled, long: Unrolled) -> Iterator[tuple[Ref | Slice, int]]:
    """The axes that are sliced step by step and grow with time, in the order of their use."""
    seen = set()
    for op in short.ops:
        for part in slices(operands(op)):
            key = part.source, part.dim
            if key in seen or any(ref.value not in long.metas for ref in refs(part.source)):
                continue
            seen.add(key)
            sizes = [trace.meta(part.source).shape[part.dim] for trace in (short, long)]
            if sizes[0] != sizes[1]:
                yield key


@dataclass
class _Loop:
    """Blocks of operations that do the same.

    `positions[i][j]` is where operation j of the step is in block i, None where it is missing from
    the last one because nothing uses it. `template` is where one of the blocks begins. `step` says
    by how much the index of a slice grows from block to block, by where in the step it stands.
    """

    template: int
    positions: list[list[int | None]]
    step: dict[Any, int] = field(default_factory=dict)

    @property
    def start(self) -> int:
        first = self.positions[0][0]
        assert first is not None
        return first

    @property
    def end(self) -> int:
        return 1 + max(at for block in self.positions for at in block if at is not None)


def _find(trace: Unrolled, source: Ref | Slice, dim: int) -> _Loop | None:
    """The longest run of equal blocks, each of which uses the next slice of a sequence."""
    first: dict[int, int] = {}
    for position, op in enumerate(trace.ops):
        for part in slices(operands(op)):
            if part.source == source and part.dim == dim and isinstance(part.index, int):
                first.setdefault(part.index, position)
    at = sorted(set(first.values()))
    if len(at) < _FEWEST:
        return None
    periods = Counter(b - a for a, b in itertools.pairwise(at))
    best: tuple[tuple[int, ...], _Loop] | None = None
    for period, _ in periods.most_common(3):
        middle = at[len(at) // 2]
        for begin in range(middle, max(middle - period, -1), -1):
            loop = _run(trace, begin, period)
            if loop is None or len(loop.positions) < _FEWEST:
                continue
            score = _score(trace, loop)
            if best is None or score > best[0]:
                best = score, loop
    return best[1] if best else None


def _run(trace: Unrolled, begin: int, period: int) -> _Loop | None:
    """The blocks around one that begins here, as far as they are equal."""
    if begin + period > len(trace.ops):
        return None
    match = _Match(trace, begin, period)
    blocks = [match.template]
    while (block := match.full(blocks[-1], len(blocks))) is not None:
        blocks.append(block)
    partial = match.partial(blocks[-1], len(blocks))
    if partial is not None:
        blocks.append(partial)
    number = -1
    while (block := match.before(blocks[0], number, first=False)) is not None:
        blocks.insert(0, block)
        number -= 1
    block = match.before(blocks[0], number, first=True)
    if block is not None:
        blocks.insert(0, block)
        number -= 1
    loop = _Loop(begin, blocks, match.step)
    return loop if match.in_range(number + 1, len(blocks)) else None


class _Match:
    """Compares blocks with the block that begins at `begin`, the template."""

    def __init__(self, trace: Unrolled, begin: int, period: int) -> None:
        self.ops = trace.ops
        self.trace = trace
        self.begin = begin
        self.period = period
        self.position = {op.result: at for at, op in enumerate(trace.ops)}
        self.template: list[int | None] = list(range(begin, begin + period))
        #: By how much a slice's index grows from block to block, by its place in the template.
        self.step: dict[Any, int] = {}

    def full(self, previous: list[int | None], number: int) -> list[int | None] | None:
        """The block behind another, if it is equal in all."""
        last = previous[-1]
        if last is None or last + 1 + self.period > len(self.ops):
            return None
        block: list[int | None] = list(range(last + 1, last + 1 + self.period))
        return block if self._equal(block, previous, number, first=False) else None

    def partial(self, previous: list[int | None], number: int) -> list[int | None] | None:
        """The last block, without the operations whose results nothing uses."""
        last = previous[-1]
        at = len(self.ops) if last is None else last + 1
        block: list[int | None] = [None] * self.period
        for offset in range(self.period):
            if at < len(self.ops):
                block[offset] = at
                if self._same_op(offset, block, previous, number, first=False):
                    at += 1
                else:
                    block[offset] = None
        return block if any(place is not None for place in block) else None

    def before(
        self, following: list[int | None], number: int, first: bool
    ) -> list[int | None] | None:
        """The block in front of another; the first one starts from what stands before the loop."""
        begin = following[0]
        assert begin is not None
        begin -= self.period
        if begin < 0:
            return None
        block: list[int | None] = list(range(begin, begin + self.period))
        earlier: list[int | None] = list(range(begin - self.period, begin))
        return block if self._equal(block, earlier, number, first) else None

    def in_range(self, first: int, count: int) -> bool:
        """Whether every sequence has a slice for every block, those that miss a use as well."""
        for (offset, place), step in self.step.items():
            part = _at(self.ops[self.begin + offset], place)
            size = self.trace.meta(part.source).shape[part.dim]
            ends = [part.index + step * number for number in (first, first + count - 1)]
            if not all(0 <= end < size for end in ends):
                return False
        return True

    def _equal(
        self, block: list[int | None], previous: list[int | None], number: int, first: bool
    ) -> bool:
        return all(
            self._same_op(offset, block, previous, number, first) for offset in range(self.period)
        )

    def _same_op(
        self,
        offset: int,
        block: list[int | None],
        previous: list[int | None],
        number: int,
        first: bool,
    ) -> bool:
        at = block[offset]
        assert at is not None
        ours, theirs = self.ops[self.begin + offset], self.ops[at]
        if ours.target is not theirs.target or len(ours.kwargs) != len(theirs.kwargs):
            return False
        steps: dict[Any, int] = {}

        def same(a: Any, b: Any, place: tuple[int, ...]) -> bool:
            if isinstance(a, Ref):
                return same_value(a, b)
            if isinstance(a, Slice):
                if not isinstance(b, Slice) or (a.dim, a.keep) != (b.dim, b.keep):
                    return False
                if not same(a.source, b.source, (*place, 0)):
                    return False
                assert isinstance(a.index, int)
                assert isinstance(b.index, int)
                step, rest = divmod(b.index - a.index, number)
                if rest or step not in (-1, 0, 1):
                    return False
                if step and not self._is_outside(a.source):
                    return False
                steps[offset, place] = step
                return self.step.get((offset, place), step) == step
            if isinstance(a, tuple):
                return (
                    isinstance(b, tuple)
                    and len(a) == len(b)
                    and all(
                        same(x, y, (*place, i)) for i, (x, y) in enumerate(zip(a, b, strict=True))
                    )
                )
            return type(a) is type(b) and bool(a == b)

        def same_value(a: Ref, b: Any) -> bool:
            place = self.position.get(a.value, -1)
            if place >= self.begin:
                inside = place - self.begin
                return isinstance(b, Ref) and b.part == a.part and self._is(b, block[inside])
            if place >= self.begin - self.period and self._is_carried(place):
                if first:
                    return all(
                        self.position.get(ref.value, -1) < (block[0] or 0) for ref in refs(b)
                    )
                before = previous[place - self.begin + self.period]
                return isinstance(b, Ref) and b.part == a.part and self._is(b, before)
            return bool(a == b)

        if not same(operands(ours), operands(theirs), ()):
            return False
        self.step.update(steps)
        return True

    def _is(self, ref: Ref, place: int | None) -> bool:
        return place is not None and self.position.get(ref.value, -1) == place

    def _is_carried(self, place: int) -> bool:
        return place >= self.begin - self.period

    def _is_outside(self, source: Ref | Slice) -> bool:
        return all(
            self.position.get(ref.value, -1) < self.begin - self.period for ref in refs(source)
        )


def _at(op: Op, place: Sequence[int]) -> Any:
    """The operand at a place: positions in nested tuples, 0 for what a slice is taken of."""
    operand: Any = operands(op)
    for index in place:
        operand = operand.source if isinstance(operand, Slice) else operand[index]
    return operand


def _score(trace: Unrolled, loop: _Loop) -> tuple[int, ...]:
    """Many blocks, nothing missing, whole sequences as outputs and few states are best."""
    count = len(loop.positions)
    missing = sum(at is None for block in loop.positions for at in block)
    where = _where(trace, loop)
    blocks: dict[int, set[int]] = {}
    for ref in _used_behind(trace, loop):
        if ref.value in where:
            block, offset = where[ref.value]
            blocks.setdefault(offset, set()).add(block)
    irregular = sum(len(b) < count and b != {count - 1} for b in blocks.values())
    carried = {
        ref
        for at in loop.positions[1]
        if at is not None
        for ref in refs(operands(trace.ops[at]))
        if where.get(ref.value, (1, 0))[0] == 0
    }
    return count, -missing, -irregular, -len(carried)


def _where(trace: Unrolled, loop: _Loop) -> dict[int, tuple[int, int]]:
    """The block, and the place in it, where each value inside the loop is computed."""
    return {
        trace.ops[at].result: (block, offset)
        for block, places in enumerate(loop.positions)
        for offset, at in enumerate(places)
        if at is not None
    }


def _used_behind(trace: Unrolled, loop: _Loop) -> Iterator[Ref]:
    """The values that are used behind the loop."""
    for op in trace.ops[loop.end :]:
        yield from refs(operands(op))
    yield from refs(trace.outputs)


_Rolled = tuple[list[Op], tuple[Any, ...], dict[int, Any]]


class _Roller:
    """Puts one operation in the place of a loop's blocks."""

    def __init__(self, trace: Unrolled, loop: _Loop) -> None:
        self.trace, self.loop = trace, loop
        self.where = _where(trace, loop)
        self.own = next(i for i, b in enumerate(loop.positions) if b[0] == loop.template)
        self.metas = dict(trace.metas)
        self.free = max(self.metas) + 1
        self.before: list[Op] = []
        # What goes into a step: (where it is computed, part, what it starts from), slices of
        # (source, dim, first index, step), and what is the same in every step.
        self.states: list[tuple[int, int | None, Any]] = []
        self.sequences: list[tuple[Ref | Slice, int, int, int]] = []
        self.invariants: list[Ref | Slice] = []
        self.sizes: list[str] = []
        self.template = [trace.ops[at] for at in loop.positions[self.own] if at is not None]
        self.fixed = self._fixed()

    def _fixed(self) -> set[int]:
        """The places of operations that give the same in every step."""
        fixed: set[int] = set()
        for offset, op in enumerate(self.template):
            moving = any(step for (at, _), step in self.loop.step.items() if at == offset)
            inside = [self.where[r.value] for r in refs(operands(op)) if r.value in self.where]
            if not moving and all(b == self.own and at in fixed for b, at in inside):
                fixed.add(offset)
        return fixed

    def roll(self) -> _Rolled | None:
        """The operations, outputs and metas with the loop rolled up; None where it cannot be."""
        ops, loop = self.trace.ops, self.loop
        start = {op.result for op in ops[: loop.start]}
        start |= set(range(self.trace.inputs))
        moving = [op for i, op in enumerate(self.template) if i not in self.fixed]
        hoisted = [op for i, op in enumerate(self.template) if i in self.fixed]
        kept = {op.result for op in hoisted}
        outputs = self._outputs()
        for op in moving:
            self._convert(op)
        nexts = [(offset, part) for offset, part, _ in self.states]
        used = {r.value for i in self.invariants for r in refs(i)}
        used |= {r.value for _, _, first in self.states for r in refs(first)}
        used |= {r.value for source, *_ in self.sequences for r in refs(source)}
        used |= {r.value for op in hoisted for r in refs(operands(op))}
        if not used <= start | kept:
            return None
        initial = [self._initial(*state) for state in self.states]
        sequences = [self._sequence(*sequence) for sequence in self.sequences]
        body = self._body(moving, [*nexts, *outputs])
        if body is None or None in initial:
            return None
        result = self._new(
            scan,
            (body, tuple(initial), tuple(sequences), tuple(self.invariants)),
            [
                *(self._meta(*place) for place in nexts),
                *(self._stacked(*place) for place in outputs),
            ],
        )

        def outside(item: Ref | Slice) -> Any:
            if isinstance(item, Slice):
                return replace(item, source=outside(item.source))
            if item.value not in self.where:
                return item
            block, offset = self.where[item.value]
            if offset in self.fixed:
                return Ref(self.template[offset].result, item.part)
            place = offset, item.part
            if place not in outputs:
                return Ref(result.value, nexts.index(place))
            return Slice(Ref(result.value, len(nexts) + outputs.index(place)), 0, block)

        rest = [exchange_all(op, outside) for op in ops[loop.end :]]
        new = [*ops[: loop.start], *hoisted, *self.before, *rest]
        return new, exchange(self.trace.outputs, outside), self.metas

    def _outputs(self) -> list[tuple[int, int | None]]:
        """The places whose values are used behind the loop, but for the last state's."""
        last = len(self.loop.positions) - 1
        carried = {
            (self.where[ref.value][1], ref.part)
            for op in self.template
            for ref in refs(operands(op))
            if self.where.get(ref.value, (self.own, 0))[0] == self.own - 1
        }
        found: dict[tuple[int, int | None], None] = {}
        for ref in _used_behind(self.trace, self.loop):
            if ref.value in self.where:
                block, offset = self.where[ref.value]
                place = offset, ref.part
                if offset not in self.fixed and not (block == last and place in carried):
                    found[place] = None
        return list(found)

    def _convert(self, op: Op) -> None:
        """Notes what goes into an operation of the step."""
        offset = self.where[op.result][1]
        for position, operand in enumerate(operands(op)):
            self._note(operand, offset, (position,))

    def _note(self, operand: Any, offset: int, place: tuple[int, ...]) -> None:
        if isinstance(operand, tuple):
            for index, item in enumerate(operand):
                self._note(item, offset, (*place, index))
        elif isinstance(operand, Slice):
            if self.loop.step.get((offset, place)):
                _add(self.sequences, self._sequence_key(operand, offset, place))
            elif self._is_invariant(operand):
                _add(self.invariants, operand)
            else:
                self._note(operand.source, offset, (*place, 0))
        elif isinstance(operand, Ref):
            if self._is_carried(operand):
                _add(self.states, self._state_key(operand, offset, place))
            elif self._is_invariant(operand):
                meta = self.trace.meta(operand)
                if isinstance(meta, str):
                    _add(self.sizes, meta)
                else:
                    _add(self.invariants, operand)

    def _is_carried(self, ref: Ref) -> bool:
        block, offset = self.where.get(ref.value, (self.own, 0))
        return block == self.own - 1 and offset not in self.fixed

    def _is_invariant(self, operand: Ref | Slice) -> bool:
        return all(
            ref.value not in self.where or self.where[ref.value][1] in self.fixed
            for ref in refs(operand)
        )

    def _state_key(
        self, ref: Ref, offset: int, place: tuple[int, ...]
    ) -> tuple[int, int | None, Any]:
        at = self.loop.positions[0][offset]
        assert at is not None
        return self.where[ref.value][1], ref.part, _at(self.trace.ops[at], place)

    def _sequence_key(
        self, part: Slice, offset: int, place: tuple[int, ...]
    ) -> tuple[Ref | Slice, int, int, int]:
        step = self.loop.step[offset, place]
        assert isinstance(part.index, int)
        return part.source, part.dim, part.index - step * self.own, step

    def _meta(self, offset: int, part: int | None) -> Any:
        meta = self.metas[self.template[offset].result]
        return meta if part is None else meta[part]

    def _stacked(self, offset: int, part: int | None) -> Any:
        meta = self._meta(offset, part)
        return TensorMeta((len(self.loop.positions), *meta.shape), meta.dtype)

    def _new(self, target: Any, args: tuple[Any, ...], meta: Any) -> Ref:
        self.before.append(Op(self.free, target, args))
        self.metas[self.free] = meta
        self.free += 1
        return Ref(self.free - 1)

    def _initial(self, offset: int, part: int | None, first: Any) -> Any:
        """What a state starts from, spread to the shape that it has later, or None."""
        if not isinstance(first, Ref | Slice):
            return None
        have, want = self.trace.meta(first), self._meta(offset, part)
        if (
            not isinstance(have, TensorMeta)
            or not isinstance(want, TensorMeta)
            or have.dtype != want.dtype
        ):
            return None
        if have.shape == want.shape:
            return first
        if len(have.shape) > len(want.shape):
            return None
        sizes = tuple(size if isinstance(size, int) else self._size(size) for size in want.shape)
        if None in sizes:
            return None
        return self._new(_aten.expand.default, (first, sizes), want)

    def _size(self, text: str) -> Ref | None:
        """A dynamic size, taken from one of the arguments."""
        for number in range(self.trace.arguments):
            shape = self.metas[number].shape
            if text in shape:
                return self._new(_aten.sym_size.int, (Ref(number), shape.index(text)), text)
        return None

    def _sequence(self, source: Ref | Slice, dim: int, first: int, step: int) -> Ref | Slice:
        """The sequence with its steps, in the order of the loop, on the first axis."""
        count, meta = len(self.loop.positions), self.trace.meta(source)
        low = first if step > 0 else first - (count - 1)
        result, shape = source, list(meta.shape)
        if low or count != shape[dim]:
            shape[dim] = count
            result = self._new(
                torch.narrow, (result, dim, low, count), TensorMeta(tuple(shape), meta.dtype)
            )
        if dim:
            shape.insert(0, shape.pop(dim))
            result = self._new(
                torch.movedim, (result, dim, 0), TensorMeta(tuple(shape), meta.dtype)
            )
        if step < 0:
            result = self._new(torch.flip, (result, (0,)), TensorMeta(tuple(shape), meta.dtype))
        return result

    def _body(self, moving: Sequence[Op], results: Sequence[tuple[int, int | None]]) -> Body | None:
        """The step as a program of its own; None where a size cannot be told inside it."""
        tensors = [self._meta(offset, part) for offset, part, _ in self.states]
        for source, dim, _, _ in self.sequences:
            meta = self.trace.meta(source)
            tensors.append(TensorMeta((*meta.shape[:dim], *meta.shape[dim + 1 :]), meta.dtype))
        tensors += [self.trace.meta(operand) for operand in self.invariants]
        ops: list[Op] = []
        count = len(tensors)
        sizes: dict[str, Ref] = {}
        for text in self.sizes:
            found = next(
                (
                    (i, meta.shape.index(text))
                    for i, meta in enumerate(tensors)
                    if isinstance(meta, TensorMeta) and text in meta.shape
                ),
                None,
            )
            if found is None:
                return None
            sizes[text] = Ref(count + len(ops))
            ops.append(Op(count + len(ops), _aten.sym_size.int, (Ref(found[0]), found[1])))
        numbers: dict[int, int] = {}

        def inside(operand: Any, offset: int, place: tuple[int, ...]) -> Any:
            if isinstance(operand, tuple):
                items = enumerate(operand)
                return tuple(inside(item, offset, (*place, i)) for i, item in items)
            if isinstance(operand, Slice):
                if self.loop.step.get((offset, place)):
                    key = self._sequence_key(operand, offset, place)
                    ref = Ref(len(self.states) + self.sequences.index(key))
                    if not operand.keep:
                        return ref
                    ops.append(Op(count + len(ops), _aten.unsqueeze.default, (ref, operand.dim)))
                    return Ref(count + len(ops) - 1)
                if self._is_invariant(operand):
                    return invariant(operand)
                return replace(operand, source=inside(operand.source, offset, (*place, 0)))
            if isinstance(operand, Ref):
                if self._is_carried(operand):
                    return Ref(self.states.index(self._state_key(operand, offset, place)))
                if self._is_invariant(operand):
                    meta = self.trace.meta(operand)
                    return sizes[meta] if isinstance(meta, str) else invariant(operand)
                return Ref(numbers[operand.value], operand.part)
            return operand

        def invariant(operand: Ref | Slice) -> Ref:
            first = len(self.states) + len(self.sequences)
            return Ref(first + self.invariants.index(operand))

        for op in moving:
            offset = self.where[op.result][1]
            args = tuple(inside(a, offset, (i,)) for i, a in enumerate(op.args))
            kwargs = tuple(
                (name, inside(value, offset, (len(op.args) + i,)))
                for i, (name, value) in enumerate(op.kwargs)
            )
            numbers[op.result] = count + len(ops)
            ops.append(Op(count + len(ops), op.target, args, kwargs, op.path))
        outputs = tuple(Ref(numbers[self.template[at].result], part) for at, part in results)
        return Body(
            Program(count, tuple(ops), outputs),
            len(self.states),
            len(self.sequences),
            _common_path([op.path for op in moving]),
        )


def _rolled(trace: Unrolled, loop: _Loop) -> _Rolled | None:
    return _Roller(trace, loop).roll()


def _add(items: list[Any], item: Any) -> None:
    if item not in items:
        items.append(item)


def _common_path(paths: Sequence[str]) -> str:
    """The innermost module that all are in."""
    parts = [path.split(".") if path else [] for path in paths]
    common = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common)


def take_last_states(trace: Unrolled) -> None:
    """Where the last step of an output is used, and is a state as well, takes the last state."""
    loops = {op.result: op for op in trace.ops if op.target is scan}

    def last(item: Ref | Slice) -> Any:
        if isinstance(item, Ref):
            return item
        if isinstance(item.source, Ref) and item.source.value in loops and item.dim == 0:
            body, part = loops[item.source.value].args[0], item.source.part
            [count, *_] = trace.meta(item.source).shape
            states = body.program.outputs[: body.states]
            output = body.program.outputs[part]
            if item.index == count - 1 and output in states and not item.keep:
                return Ref(item.source.value, states.index(output))
        return replace(item, source=last(item.source))

    trace.ops = [exchange_all(op, last) for op in trace.ops]
    trace.outputs = exchange(trace.outputs, last)


def _join_steps(trace: Unrolled) -> None:
    """Where the steps of a sequence are stacked or joined one by one, takes it as a whole."""
    ops: list[Op] = []
    free = max(trace.metas) + 1

    def new(target: Any, args: tuple[Any, ...], meta: TensorMeta) -> Ref:
        nonlocal free
        ops.append(Op(free, target, args))
        trace.metas[free] = meta
        free += 1
        return Ref(free - 1)

    def whole(run: Sequence[Slice], dim: int, *, stacked: bool) -> Ref | Slice:
        """The steps as one tensor, to be joined with others along `dim`."""
        first, last = run[0].index, run[-1].index
        assert isinstance(first, int)
        assert isinstance(last, int)
        result: Ref | Slice = run[0].source
        axis, meta = run[0].dim, trace.meta(run[0].source)
        shape = list(meta.shape)
        if len(run) != shape[axis]:
            shape[axis] = len(run)
            meta = TensorMeta(tuple(shape), meta.dtype)
            result = new(torch.narrow, (result, axis, min(first, last), len(run)), meta)
        if first > last:
            result = new(torch.flip, (result, (axis,)), meta)
        if run[0].keep:
            if axis != dim:
                shape[axis : axis + 1] = [1, shape[axis]]
                result = new(torch.unsqueeze, (result, axis), TensorMeta(tuple(shape), meta.dtype))
                axis += 1
                shape.insert(dim, shape.pop(axis))
                result = new(
                    torch.movedim, (result, axis, dim), TensorMeta(tuple(shape), meta.dtype)
                )
                result = _flat(result, dim, shape, meta.dtype)
            return result
        if axis != dim:
            shape.insert(dim, shape.pop(axis))
            result = new(torch.movedim, (result, axis, dim), TensorMeta(tuple(shape), meta.dtype))
        return result if stacked else _flat(result, dim, shape, meta.dtype)

    def _flat(result: Ref | Slice, dim: int, shape: list[Any], dtype: torch.dtype) -> Ref:
        shape[dim : dim + 2] = [shape[dim] * shape[dim + 1]]
        return new(torch.flatten, (result, dim, dim + 1), TensorMeta(tuple(shape), dtype))

    for op in trace.ops:
        stacked = op.target is _aten.stack.default
        if not stacked and op.target is not _aten.cat.default:
            ops.append(op)
            continue
        rank = len(trace.metas[op.result].shape)
        dim = (*op.args, 0)[1] % rank
        runs = _runs(op.args[0])
        if all(len(run) < _FEWEST for run in runs):
            ops.append(op)
            continue
        items: list[Any] = []
        for run in runs:
            if len(run) >= _FEWEST:
                items.append(whole(run, dim, stacked=stacked))
            elif stacked:
                items += [new(torch.unsqueeze, (r, dim), _one(trace.meta(r), dim)) for r in run]
            else:
                items += run
        ops.append(replace(op, target=_aten.cat.default, args=(tuple(items), dim), kwargs=()))
    trace.ops = ops


def _one(meta: TensorMeta, dim: int) -> TensorMeta:
    return TensorMeta((*meta.shape[:dim], 1, *meta.shape[dim:]), meta.dtype)


def _runs(items: Sequence[Any]) -> list[list[Any]]:
    """The items in groups: slices of one sequence that follow one another stand together."""
    runs: list[list[Any]] = []
    for item in items:
        if runs and _follows(runs[-1], item):
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def _follows(run: Sequence[Any], item: Any) -> bool:
    last = run[-1]
    if not isinstance(last, Slice) or not isinstance(item, Slice):
        return False
    if (last.source, last.dim, last.keep) != (item.source, item.dim, item.keep):
        return False
    assert isinstance(last.index, int)
    assert isinstance(item.index, int)
    step = item.index - last.index
    return step in (-1, 1) and (len(run) < 2 or step == last.index - run[-2].index)


def _renumber(trace: Unrolled) -> None:
    """Numbers values in order, so that two traces with the same operations agree."""
    numbers = {number: number for number in range(trace.inputs)}
    for op in trace.ops:
        numbers[op.result] = len(numbers)
    trace.ops = [
        replace(
            op,
            result=numbers[op.result],
            args=renumber(op.args, numbers),
            kwargs=tuple((name, renumber(value, numbers)) for name, value in op.kwargs),
        )
        for op in trace.ops
    ]
    trace.outputs = renumber(trace.outputs, numbers)
    trace.metas = {new: trace.metas[old] for old, new in numbers.items()}
