"""The pool: many live sequences of one model, stepped together in one call of the engine."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, NoReturn, overload

import numpy as np

from .buffers.pool_buffers import Change, PoolBuffers, check_rows
from .buffers.stream_buffers import cache_bounded
from .chunks import alike, batch_of_one, joined, split
from .contract import Contract, check_chunk
from .engines import Engine
from .errors import InputError, StateportError
from .owner import Call, SingleOwner, owned
from .roster import Roster, Rows, is_integer
from .state import State
from .validation import (
    Array,
    check_inputs,
    check_state,
    initial_state,
    judged_by_shape,
    named_input,
)

#: So many numbers of streams and shapes of chunks are remembered as right.
_CHECKED: Final = 1024
#: Capacities are numbers of 64 bits.
_MOST: Final = 2**63 - 1


class Pool:
    """Up to `capacity` live sequences; any of them step together, in one call of the engine.

    A stream is an integer that `open` gives. Once closed, that integer is never valid again: its
    row goes to another stream, which starts from the contract's initial state.

    The states lie in the pool's buffers, one row per stream. A step of all streams in the order of
    `streams` runs on the buffers themselves; a step of some copies their rows out before it and
    back after it. With `ort-cuda` the buffers are on the GPU, and a step of some copies all of them
    to the host and back.

    A pool has one owner: calling it while another call runs is an error. A call that fails leaves
    every state as it was. A call that an exception from outside cuts off (Ctrl-C, a signal's
    handler) has either been done in whole or not at all, and the pool can be used as before.

    A pool cannot be copied or pickled; the states of its streams can.
    """

    # What a call changes is built first, and put in place by one assignment: an exception may come
    # between any two instructions.

    def __init__(
        self, contract: Contract, engine: Engine, initial: Mapping[str, Array], capacity: int
    ) -> None:
        check_rows(contract)
        if type(capacity) is not int or not 1 <= capacity <= _MOST:
            raise InputError(
                f"capacity is {capacity!r}; the largest number of streams was expected, 1 or more, "
                "in 64 bits."
            )
        self._contract = contract
        self._first = initial_state(contract, initial, {"batch": 1})
        self._roster = Roster.empty(capacity)
        self._buffers = PoolBuffers(contract, engine, 0)
        # Single arrays of these numbers of streams and shapes have been checked, and their dtypes.
        self._checked: dict[Hashable, np.dtype[Any]] = {}
        self._owner = SingleOwner("pool")

    @property
    def capacity(self) -> int:
        """The largest number of streams that may be open at once."""
        return self._roster.capacity

    @property
    def streams(self) -> Rows:
        """The open streams, in the order in which stepping all of them is quickest."""
        return self._roster.streams

    def __len__(self) -> int:
        """How many streams are open."""
        return self._roster.open

    def __contains__(self, stream: object) -> bool:
        """Whether a stream is open."""
        return is_integer(stream) and stream in self._roster.streams

    @overload
    def open(self) -> int: ...
    @overload
    def open(self, count: int) -> Rows: ...
    def open(self, count: int | None = None) -> int | Rows:
        """Opens a stream, or with `count` an array of so many, in the contract's initial state.

        Raises:
            InputError: there would be more than `capacity`, or more than there is memory for; none
                is opened.
        """
        wanted = 1 if count is None else count
        if type(wanted) is not int or wanted < 1:
            raise InputError(f"count is {count!r}; a number of streams was expected, 1 or more.")
        streams = self._open(wanted)
        return int(streams[0]) if count is None else streams

    @owned
    def _open(self, count: int) -> Rows:
        roster, rows = self._roster.opened(count)
        streams = roster.of(rows)

        if rows[-1] >= self._buffers.rows:
            self._buffers = self._buffers.resized(int(rows[-1]) + 1)
        self._buffers.write_rows([(rows, self._first)])  # nobody has these rows yet

        self._roster = roster
        return streams

    @owned
    def close(self, streams: int | Sequence[int] | Rows) -> None:
        """Closes a stream, or several. Their states are gone.

        Raises:
            InputError: one of them is not open, or is named twice; none is closed.
        """
        self._roster = self._roster.closed(self._roster.rows(streams))

    def step(
        self,
        streams: Sequence[int] | Rows,
        xs: Array | Sequence[Array] | Mapping[str, Array],
    ) -> Any:
        """Feeds the next chunk of each of these streams, and returns their outputs.

        Args:
            streams: which ones, each once, in any order; an array of integers is the quickest.
            xs: one array with a row per stream along the batch axis, e.g. float32
                (streams, time, 5); or a list of an array per stream, without the batch axis, e.g.
                float32 (time, 5), whose lengths may differ: those of one length go together; or
                arrays by name, where the model has several inputs.

        Returns:
            One array with a row per stream; a dict of them by name where there are several outputs;
            a list of these, one per stream, where `xs` is a list.

        Raises:
            InputError: a stream is not open or is named twice, or `xs` does not fit the contract.
            EngineError: the engine failed. No state has changed.
            StateportError: another call of this pool is running.
        """
        this_call: Call = []
        self._owner.begin(this_call)  # and `owned` would take a while longer
        try:
            rows = self._roster.rows(streams)
            if type(xs) is np.ndarray:
                shape = xs.shape
                if self._checked.get((len(rows), shape)) is not xs.dtype:
                    self._check_array(xs, len(rows))
                return self._by_name(self._step(rows, (xs,), shape))
            if isinstance(xs, list | tuple):
                return self._step_each(rows, xs)
            named = xs if isinstance(xs, Mapping) else self._named(xs)
            self._check(named, len(rows))
            return self._by_name(self._step(rows, *self._ordered(named)))
        finally:
            self._owner.running = None

    def __getitem__(self, stream: int) -> PoolStream:
        """One stream of the pool, whose state can be read and written.

        Raises:
            InputError: it is not open.
        """
        if not is_integer(stream):
            raise InputError(
                f"The stream is a {type(stream).__qualname__}; an integer that open() returned was "
                "expected."
            )
        self._roster.rows(stream)
        return PoolStream(self, stream)

    def __reduce__(self) -> NoReturn:
        """Refuses copies and pickles.

        Raises:
            StateportError: always.
        """
        raise StateportError(
            "A pool cannot be copied or pickled. Open streams in another pool and give them the "
            "states: other[b].state = pool[a].state. A state can be pickled, and saved to a file."
        )

    def __repr__(self) -> str:
        return f"<stateport.Pool of {len(self)} streams, at most {self.capacity}>"

    @owned
    def _read(self, stream: int) -> State:
        return self._buffers.read_rows(self._roster.rows(stream))

    @owned
    def _write(self, stream: int, state: State) -> None:
        check_state(self._contract, state, {"batch": 1})
        self._buffers.write_rows([(self._roster.rows(stream), state)])

    def _named(self, xs: Any) -> dict[str, Any]:
        return named_input(self._contract, xs, "step(streams, {name: array})")

    def _check(self, inputs: Mapping[str, Array], count: int) -> None:
        sizes = check_inputs(self._contract, inputs)
        check_chunk(self._contract, sizes)
        if sizes["batch"] != count:
            raise InputError(
                f"xs has {sizes['batch']} rows along the batch axis, and {count} streams are "
                "named. Pass one row for each."
            )

    def _check_array(self, x: Array, count: int) -> None:
        """Checks the only input, and remembers that arrays like it are right."""
        self._check(self._named(x), count)
        if judged_by_shape(self._contract):
            cache_bounded(self._checked, (count, x.shape), x.dtype, _CHECKED)

    def _ordered(self, inputs: Mapping[str, Array]) -> tuple[list[Array], tuple[object, ...]]:
        """The inputs in the contract's order, and their shapes."""
        arrays = [inputs[spec.name] for spec in self._contract.inputs]
        return arrays, tuple([array.shape for array in arrays])

    def _step(self, rows: Rows, inputs: Sequence[Array], shapes: Hashable) -> list[Array]:
        """One call of the engine."""
        if rows is not self._roster.everyone[1]:
            return self._buffers.step_some(rows, inputs, shapes)
        if len(rows) < self._buffers.rows:
            self._buffers = self._buffers.resized(len(rows))  # the others are free
        return self._buffers.step(inputs, shapes)

    def _by_name(self, outputs: Sequence[Array]) -> Any:
        """One output as it is, several as a dict by name."""
        if len(outputs) == 1:
            return outputs[0]
        return {s.name: y for s, y in zip(self._contract.outputs, outputs, strict=True)}

    def _step_each(self, rows: Rows, xs: Sequence[Array]) -> list[Any]:
        """Chunks that may differ in length: a call for each length, and all states at once."""
        groups = self._groups(rows, xs)
        if len(groups) == 1:
            x = groups[0][1]
            return self._rows_of(self._step(rows, (x,), x.shape))

        results: list[Any] = [None] * len(xs)
        changes: list[Change] = []
        for positions, x in groups:
            some = rows[positions]
            outputs, after = self._buffers.run_some(some, (x,), x.shape)
            changes.append((some, {name: array.copy() for name, array in after.items()}))
            for position, result in zip(positions, self._rows_of(outputs), strict=True):
                results[position] = result

        self._buffers.write_rows(changes)
        return results

    def _groups(self, rows: Rows, xs: Sequence[Array]) -> list[tuple[list[int], Array]]:
        """The positions of chunks of one shape, and these as one array; all of them are checked."""
        self._named(xs)
        if len(xs) != len(rows):
            raise InputError(f"{len(rows)} streams are named, and {len(xs)} chunks came.")

        axis = self._contract.inputs[0].shape.index("batch")
        groups = alike(xs)
        for positions in groups:
            chunk = batch_of_one(xs[positions[0]], axis)
            if (
                type(chunk) is not np.ndarray
                or self._checked.get((1, chunk.shape)) is not chunk.dtype
            ):
                self._check_array(chunk, 1)
        return [(group, joined([xs[position] for position in group], axis)) for group in groups]

    def _rows_of(self, outputs: Sequence[Array]) -> list[Any]:
        """What each stream gets of the outputs of several."""
        axes = [spec.shape.index("batch") for spec in self._contract.outputs]
        return [self._by_name(parts) for parts in split(outputs, axes)]


class PoolStream:
    """One stream of a pool."""

    def __init__(self, pool: Pool, stream: int) -> None:
        self._pool = pool
        self._stream = stream

    @property
    def state(self) -> State:
        """A copy of its state, with a batch axis of 1; assigning replaces it.

        Raises:
            InputError: the stream has been closed.
            StateError: the state assigned does not fit the contract.
        """
        return self._pool._read(self._stream)

    @state.setter
    def state(self, state: State) -> None:
        self._pool._write(self._stream, state)
