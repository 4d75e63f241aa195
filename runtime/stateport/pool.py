# SPDX-License-Identifier: Apache-2.0
"""The pool: many sequences of one model that step together in one call of the engine."""

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

#: How many combinations of a number of streams and a shape are remembered as checked.
_MAX_CHECKED: Final = 1024
#: The largest capacity: a signed integer of 64 bits.
_MAX_CAPACITY: Final = 2**63 - 1


class Pool:
    """Up to `capacity` sequences, any of which step together in one call of the engine.

    A stream is an integer that `open` returns. The integer of a closed stream is never valid again:
    its row is assigned to another stream, which starts from the contract's initial state.

    The states are in the pool's buffers, one row per stream. A step of all streams in the order of
    `streams` runs directly on the buffers. A step of some streams copies their rows out of the
    buffers before the call, and back after it. With `ort-cuda` the buffers are on the GPU, and a
    step of some streams copies all of them to the host and back.

    A pool has one owner: calling it while another call runs is an error. A call that fails leaves
    all states unchanged. A call that is cut off by an exception from outside (Ctrl-C, a signal
    handler) has either taken full effect or none, and the pool remains usable.

    A pool cannot be copied or pickled, but the states of its streams can.
    """

    # Each call prepares its changes, and then applies them with one assignment, because an
    # exception from outside may come between any two instructions.

    def __init__(
        self, contract: Contract, engine: Engine, initial: Mapping[str, Array], capacity: int
    ) -> None:
        check_rows(contract)
        if type(capacity) is not int or not 1 <= capacity <= _MAX_CAPACITY:
            raise InputError(
                f"capacity is {capacity!r}; the largest number of streams was expected, an integer "
                "from 1 to 2**63 - 1."
            )

        self._contract = contract
        self._first = initial_state(contract, initial, {"batch": 1})
        self._roster = Roster.empty(capacity)
        self._buffers = PoolBuffers(contract, engine, 0)
        # The dtypes of single inputs that were checked, by number of streams and shape.
        self._checked: dict[Hashable, np.dtype[Any]] = {}
        self._owner = SingleOwner("pool")

    @property
    def capacity(self) -> int:
        """The largest number of streams that may be open at once."""
        return self._roster.capacity

    @property
    def streams(self) -> Rows:
        """The open streams: int64 (streams,), in the order in which a step of all is fastest."""
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
        """Opens streams, which start from the contract's initial state.

        Args:
            count: how many streams to open.

        Returns:
            Without `count`, one stream as an int; with it, an int64 array of streams.

        Raises:
            InputError: there would be more than `capacity` streams, or there is not enough memory.
                No stream is opened.
        """
        number = 1 if count is None else count
        if type(number) is not int or number < 1:
            raise InputError(f"count is {count!r}; a number of streams was expected, 1 or more.")

        streams = self._open(number)
        return int(streams[0]) if count is None else streams

    @owned
    def _open(self, count: int) -> Rows:
        roster, rows = self._roster.opened(count)
        streams = roster.of(rows)

        if rows[-1] >= self._buffers.rows:
            self._buffers = self._buffers.resized(int(rows[-1]) + 1)
        self._buffers.write_rows([(rows, self._first)])  # no stream has these rows yet

        self._roster = roster
        return streams

    @owned
    def close(self, streams: int | Sequence[int] | Rows) -> None:
        """Closes one stream or several, and discards their states.

        Raises:
            InputError: a stream is not open, or is named twice. No stream is closed.
        """
        self._roster = self._roster.closed(self._roster.rows(streams))

    def step(
        self,
        streams: Sequence[int] | Rows,
        xs: Array | Sequence[Array] | Mapping[str, Array],
    ) -> Any:
        """Feeds the next chunk of each of these streams, and returns their outputs.

        Args:
            streams: the streams, in any order, each once. An array of integers is the fastest.
            xs: for a model with one input, an array with one row per stream along the batch axis,
                e.g. float32 (streams, time, 5); or a list with one array per stream, without the
                batch axis, e.g. float32 (time, 5). The arrays of a list may differ in length; those
                of one length step together. For a model with several inputs, a dict of arrays with
                one row per stream.

        Returns:
            An array with one row per stream, or a dict of such arrays if the model has several
            outputs. If `xs` is a list, a list with the output, or the dict, of each stream.

        Raises:
            InputError: a stream is not open or is named twice, or `xs` does not fit the contract.
            EngineError: the engine failed. No state has changed.
            StateportError: another call of this pool is running.
        """
        this_call: Call = []
        self._owner.begin(this_call)  # faster than the decorator `owned`
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
            InputError: the stream is not open.
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
            "A pool cannot be copied or pickled. Open streams in another pool and assign them the "
            "states: other[b].state = pool[a].state. A state can be pickled, and saved to a file."
        )

    def __repr__(self) -> str:
        return f"<stateport.Pool of {len(self)} streams, at most {self.capacity}>"

    @owned
    def _read(self, stream: int) -> State:
        return self._buffers.read_rows(self._roster.rows(stream))

    @owned
    def _read_rows(self, streams: Rows) -> State:
        """The states of several streams in one, in their order along the batch axis."""
        return self._buffers.read_rows(self._roster.rows(streams))

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
                f"xs has {sizes['batch']} rows along the batch axis, but {count} streams are "
                "named. Pass one row for each stream."
            )

    def _check_array(self, x: Array, count: int) -> None:
        """Checks the only input, and remembers that arrays of its shape and dtype fit."""
        self._check(self._named(x), count)
        if judged_by_shape(self._contract):
            cache_bounded(self._checked, (count, x.shape), x.dtype, _MAX_CHECKED)

    def _ordered(self, inputs: Mapping[str, Array]) -> tuple[list[Array], tuple[object, ...]]:
        """The inputs in the contract's order, and their shapes."""
        arrays = [inputs[spec.name] for spec in self._contract.inputs]
        return arrays, tuple([array.shape for array in arrays])

    def _step(self, rows: Rows, inputs: Sequence[Array], shapes: Hashable) -> list[Array]:
        """Steps the streams in these rows with one call of the engine."""
        if rows is not self._roster.everyone[1]:
            return self._buffers.step_some(rows, inputs, shapes)
        if len(rows) < self._buffers.rows:
            self._buffers = self._buffers.resized(len(rows))  # the rows above are free
        return self._buffers.step(inputs, shapes)

    def _by_name(self, outputs: Sequence[Array]) -> Any:
        """A single output as an array, several as a dict by name."""
        if len(outputs) == 1:
            return outputs[0]
        return {spec.name: y for spec, y in zip(self._contract.outputs, outputs, strict=True)}

    def _step_each(self, rows: Rows, xs: Sequence[Array]) -> list[Any]:
        """Steps chunks that may differ in length: one call per length, then all states at once."""
        groups = self._groups(rows, xs)
        if len(groups) == 1:
            x = groups[0][1]
            return self._rows_of(self._step(rows, (x,), x.shape))

        results: list[Any] = [None] * len(xs)
        changes: list[Change] = []
        for positions, x in groups:
            group_rows = rows[positions]
            outputs, after = self._buffers.run_some(group_rows, (x,), x.shape)
            changes.append((group_rows, {name: array.copy() for name, array in after.items()}))
            for position, result in zip(positions, self._rows_of(outputs), strict=True):
                results[position] = result

        self._buffers.write_rows(changes)
        return results

    def _groups(self, rows: Rows, xs: Sequence[Array]) -> list[tuple[list[int], Array]]:
        """Checks the chunks and groups them by shape: their positions, and them as one array."""
        self._named(xs)
        if len(xs) != len(rows):
            raise InputError(
                f"{len(rows)} streams are named, but xs has {len(xs)} chunks. Pass one for each."
            )

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
        """Splits the outputs of several streams into those of each stream."""
        axes = [spec.shape.index("batch") for spec in self._contract.outputs]
        return [self._by_name(parts) for parts in split(outputs, axes)]


class PoolStream:
    """One stream of a pool."""

    def __init__(self, pool: Pool, stream: int) -> None:
        self._pool = pool
        self._stream = stream

    @property
    def state(self) -> State:
        """A copy of the stream's state, with a batch axis of size 1. Assigning replaces the state.

        Raises:
            InputError: the stream has been closed.
            StateError: the assigned state does not fit the contract.
        """
        return self._pool._read(self._stream)

    @state.setter
    def state(self, state: State) -> None:
        self._pool._write(self._stream, state)
