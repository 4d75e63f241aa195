# SPDX-License-Identifier: Apache-2.0
"""The pool: many sequences of one model that step together in one call of the engine."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Final, Literal, NoReturn, overload

import numpy as np

from .axes import is_count
from .buffers.pool_buffers import Change, PoolBuffers, check_rows
from .buffers.stream_buffers import cache_bounded
from .chunks import alike, joined, split
from .contract import Contract, check_chunk, names_of
from .engines import Engine
from .errors import InputError, StateportError
from .owner import Call, SingleOwner, owned
from .plain import kind_of
from .pool_file import load_streams, save_streams
from .probed_axes import constant_outputs, measure_outputs
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

    A pool cannot be copied or pickled. `save` writes the states of its streams to a file, and
    `restore` opens them again, in another process too.
    """

    # Each call prepares its changes, and then applies them with one assignment, because an
    # exception from outside may come between any two instructions.

    def __init__(
        self, contract: Contract, engine: Engine, initial: Mapping[str, Array], capacity: int
    ) -> None:
        contract = measure_outputs(contract, engine)
        constant: frozenset[str] = frozenset()
        lacks_batch = any("batch" not in spec.shape for spec in contract.outputs)
        if lacks_batch:
            constant = constant_outputs(contract, engine)
        check_rows(contract, constant)
        if not is_count(capacity, 1, _MAX_CAPACITY):
            raise InputError(
                f"capacity is {capacity!r}; the largest number of streams was expected, an integer "
                "from 1 to 2**63 - 1."
            )
        largest = dict(contract.limits).get("batch", capacity)
        if capacity > largest:
            raise InputError(
                f"capacity is {capacity}; the file takes at most {largest} rows in one call, so a "
                f"pool has at most {largest} streams."
            )

        self._contract = contract
        self._output_axes: list[int | None] = []
        for spec in contract.outputs:  # a constant output has no rows
            self._output_axes.append(spec.shape.index("batch") if "batch" in spec.shape else None)
        self._one_stream = _without_batch(contract)
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
        streams = self._open(_checked_count(count))
        return int(streams[0]) if count is None else streams

    @owned
    def _open(self, count: int, state: State | None = None) -> Rows:
        """Opens streams from the initial state, or from a state with a row for each."""
        roster, rows = self._roster.opened(count)
        streams = roster.of(rows)

        if rows[-1] >= self._buffers.rows:
            self._buffers = self._buffers.resized(self._rows_for(int(rows[-1]) + 1))
        first = self._first if state is None else state
        self._buffers.write_rows([(rows, first)])  # no stream has these rows yet

        self._roster = roster
        return streams

    def _rows_for(self, needed: int) -> int:
        """More rows than are needed, so that opening one stream after the other copies little."""
        return min(self.capacity, max(needed, 2 * self._buffers.rows))

    @overload
    def fork(self, stream: int) -> int: ...
    @overload
    def fork(self, stream: int, count: int) -> Rows: ...
    def fork(self, stream: int, count: int | None = None) -> int | Rows:
        """Opens streams that continue from the present state of another one.

        For what speculates, as a beam search: from then on the streams are independent.

        Args:
            stream: the stream whose state is copied.
            count: how many streams to open.

        Returns:
            Without `count`, one stream as an int; with it, an int64 array of streams.

        Raises:
            InputError: the stream is not open, there would be more than `capacity` streams, or
                there is not enough memory. No stream is opened.
        """
        number = _checked_count(count)
        state = self[stream].state
        copies = self._open(number, state if number == 1 else self._repeated(state, number))
        return int(copies[0]) if count is None else copies

    def _repeated(self, state: State, count: int) -> State:
        """A state of one row as one of several equal rows."""
        arrays = {}
        for spec in self._contract.state_inputs:
            arrays[spec.name] = np.repeat(state[spec.name], count, spec.shape.index("batch"))
        return State._adopt(arrays)

    @owned
    def close(self, streams: int | Sequence[int] | Rows) -> None:
        """Closes one stream or several, and discards their states.

        Raises:
            InputError: a stream is not open, or is named twice. No stream is closed.
        """
        self._roster = self._roster.closed(self._roster.rows(streams))

    @owned
    def save(self, path: str | PathLike[str]) -> None:
        """Writes the states of all open streams to one safetensors file.

        The file appears whole or not at all. It is also a `State` with one row per stream, in the
        order of `streams`: `State.load` reads it.

        Raises:
            InputError: no stream is open.
            FileError: the file cannot be written. It is then left as it was.
        """
        streams = self._roster.streams
        if not len(streams):
            raise InputError(
                "The pool has no open streams, and at least one was expected to save. Open streams "
                "first, or remove the file of an earlier time."
            )
        save_streams(path, streams, self._buffers.read_rows(self._roster.rows(streams)))

    def restore(self, path: str | PathLike[str]) -> dict[int, int]:
        """Opens the streams that `save` wrote, which go on where they were.

        The streams that are open already stay as they are. Another pool may have written the file,
        of another capacity, on another engine, in another process.

        Returns:
            By the stream as it was when it was saved, the stream that continues it.

        Raises:
            FileError: the file cannot be read, or no pool wrote it. No stream is opened.
            StateError: the states do not fit the contract.
            InputError: there would be more than `capacity` streams.
        """
        saved, state = load_streams(path)
        check_state(self._contract, state, {"batch": len(saved)})
        streams = self._open(len(saved), state)
        return dict(zip(saved, streams.tolist(), strict=True))

    def step(
        self,
        streams: Sequence[int] | Rows,
        xs: Array | Sequence[Array] | Mapping[str, Array],
        *,
        errors: Literal["raise", "return"] = "raise",
    ) -> Any:
        """Feeds the next chunk of each of these streams, and returns their outputs.

        Args:
            streams: the streams, in any order, each once. An array of integers is the fastest.
            xs: for a model with one input, an array with one row per stream along the batch axis,
                e.g. float32 (streams, time, 5); or a list with one array per stream, without the
                batch axis, e.g. float32 (time, 5). The arrays of a list may differ in length; those
                of one length step together. For a model with several inputs, a dict of arrays with
                one row per stream.
            errors: "raise" steps all streams or none. "return" takes a list `xs`, steps every
                stream whose chunk fits, and puts the InputError of each other stream in the place
                of its output.

        Returns:
            An array with one row per stream, or a dict of such arrays if the model has several
            outputs. If `xs` is a list, a list with the output, or the dict, of each stream.

        Raises:
            InputError: a stream is not open or is named twice, or `xs` does not fit the contract.
                The message about a chunk of a list names its stream.
            EngineError: the engine failed. No state has changed.
            StateportError: another call of this pool is running.
        """
        if errors != "raise":
            return self._step_fitting(streams, xs, errors)

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
                return self._step_each(rows, xs, self._check_chunks(rows, xs))
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
            "A pool cannot be copied or pickled. Save all its streams and restore them in another "
            "pool: pool.save(path), other.restore(path). The states of single streams move by "
            "assignment: other[b].state = pool[a].state."
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
        return dict(zip(names_of(self._contract.outputs), outputs, strict=True))

    @owned
    def _step_fitting(self, streams: Any, xs: Any, errors: object) -> list[Any]:
        """Steps the streams whose chunks fit; the others' errors are in their places."""
        if errors != "return":
            raise InputError(f"errors is {errors!r}; 'raise' or 'return' was expected.")
        if not isinstance(xs, list | tuple):
            raise InputError(
                f"With errors='return', xs is {kind_of(xs)}; a list with one chunk for each stream "
                "was expected."
            )
        named_input(self._contract, xs, "step(streams, {name: array})")
        self._check_count(len(streams), len(xs))

        results: list[Any] = [None] * len(xs)
        fitting: dict[int, int] = {}  # from the row of a stream to its position
        for position, (stream, chunk) in enumerate(zip(streams, xs, strict=True)):
            try:
                row = int(self._roster.rows([stream])[0])
                if row in fitting:
                    raise InputError(f"The stream {stream} is named twice in one call.")
                self._check_chunk(stream, chunk)
            except InputError as error:
                results[position] = error
            else:
                fitting[row] = position

        if fitting:
            rows = np.array([*fitting])
            positions = [*fitting.values()]
            chunks = [xs[position] for position in positions]
            outputs = self._step_each(rows, chunks, alike(chunks))
            for position, output in zip(positions, outputs, strict=True):
                results[position] = output
        return results

    def _step_each(self, rows: Rows, xs: Sequence[Array], groups: Sequence[list[int]]) -> list[Any]:
        """Steps groups of chunks of one length: one call per group, then all states at once."""
        axis = self._contract.inputs[0].shape.index("batch")
        if len(groups) == 1:
            x = joined(xs, axis)
            return self._rows_of(self._step(rows, (x,), x.shape), len(rows))

        results: list[Any] = [None] * len(xs)
        changes: list[Change] = []
        for positions in groups:
            x = joined([xs[position] for position in positions], axis)
            group_rows = rows[positions]
            outputs, after = self._buffers.run_some(group_rows, (x,), x.shape)
            changes.append((group_rows, {name: array.copy() for name, array in after.items()}))
            for position, result in zip(
                positions, self._rows_of(outputs, len(positions)), strict=True
            ):
                results[position] = result

        self._buffers.write_rows(changes)
        return results

    def _check_chunks(self, rows: Rows, xs: Sequence[object]) -> list[list[int]]:
        """Checks one chunk of each shape and dtype, and returns the positions of each."""
        self._named(xs)
        self._check_count(len(rows), len(xs))
        groups = alike(xs)
        for positions in groups:
            first = positions[0]
            self._check_chunk(self._roster.of(rows[first : first + 1])[0], xs[first])
        return groups

    def _check_count(self, streams: int, chunks: int) -> None:
        if streams != chunks:
            raise InputError(
                f"{streams} streams are named, but xs has {chunks} chunks. Pass one for each."
            )

    def _check_chunk(self, stream: object, chunk: Any) -> None:
        """Checks the chunk of one stream, an array without the batch axis."""
        is_plain = type(chunk) is np.ndarray
        if is_plain and self._checked.get((None, chunk.shape)) is chunk.dtype:
            return

        try:
            check_chunk(self._one_stream, check_inputs(self._one_stream, self._named(chunk)))
        except InputError as error:
            raise InputError(f"Stream {stream}: {error}") from error
        if is_plain and judged_by_shape(self._contract):
            cache_bounded(self._checked, (None, chunk.shape), chunk.dtype, _MAX_CHECKED)

    def _rows_of(self, outputs: Sequence[Array], count: int) -> list[Any]:
        """Splits the outputs of several streams into those of each stream."""
        return [*map(self._by_name, split(outputs, self._output_axes, count))]


def _checked_count(count: int | None) -> int:
    """The number of streams to open.

    Raises:
        InputError: it is not an integer of at least 1.
    """
    number = 1 if count is None else count
    if not is_count(number, 1):
        raise InputError(f"count is {count!r}; a number of streams was expected, 1 or more.")
    return number


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
        self.restore(state)

    def restore(self, state: State) -> None:
        """Continues from a state of this stream or of another one, of batch size 1.

        Raises:
            InputError: the stream has been closed.
            StateError: the state does not fit the contract.
        """
        self._pool._write(self._stream, state)

    def reset(self) -> None:
        """Begins a new sequence, from the contract's initial state.

        Raises:
            InputError: the stream has been closed.
        """
        self._pool._write(self._stream, self._pool._first)

    def __repr__(self) -> str:
        state = "open" if self._stream in self._pool else "closed"
        return f"<stateport.PoolStream {self._stream}, {state}>"


def _without_batch(contract: Contract) -> Contract:
    """What one stream takes: the inputs without the batch axis."""
    inputs = []
    for spec in contract.inputs:
        shape = tuple(axis for axis in spec.shape if axis != "batch")
        inputs.append(replace(spec, shape=shape))

    def without(sizes: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
        return tuple(pair for pair in sizes if pair[0] != "batch")

    return replace(
        contract,
        inputs=tuple(inputs),
        limits=without(contract.limits),
        minimums=without(contract.minimums),
        multiples=without(contract.multiples),
    )
