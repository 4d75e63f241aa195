"""The pool: many live sequences of one model, stepped together in one call of the engine."""

from __future__ import annotations

import threading
from collections.abc import Container, Hashable, Mapping, Sequence
from typing import Any, Final, overload

import numpy as np

from .arrays import Array, check_inputs, check_state, initial_state, named_input
from .carrier import keep
from .contract import Axis, Contract, check_chunk, check_streaming, names_in
from .engines import Engine
from .errors import InputError, StateportError, StreamingError
from .slab import Rows, Slab
from .state import State

#: So many numbers of streams and shapes of chunks are remembered as right.
_CHECKED: Final = 1024
_INT64: Final = np.dtype(np.int64)


class Pool:
    """Up to `capacity` live sequences; any of them step together, in one call of the engine.

    A stream is an integer that `open` gives. Once closed, that integer is never valid again: its
    row goes to another stream, which starts from the contract's initial state.

    The states lie in one slab, a row per stream. A step of all streams in the order of `streams`
    runs on the slab itself; a step of some copies their rows out before it and back after it. With
    `ort-cuda` the slab is on the GPU, and a step of some takes all of it over the bus and back.

    A pool has one owner: calling it while another thread does is an error. A call that fails leaves
    every state as it was.
    """

    def __init__(
        self, contract: Contract, engine: Engine, initial: Mapping[str, Array], capacity: int
    ) -> None:
        _check_contract(contract)
        if type(capacity) is not int or capacity < 1:
            raise InputError(
                f"capacity is {capacity!r}; the largest number of streams was expected, 1 or more."
            )
        self._contract = contract
        self._capacity = capacity
        self._first = initial_state(contract, initial, {"batch": 1})
        self._slab = Slab(contract, engine)
        self._open = 0
        # A stream is its row plus a multiple of this, another one each time the row is given. The
        # number that a free row holds leads to no row at all, so that no integer is ever equal.
        self._cycle = capacity + 1
        self._free = capacity
        self._stream = np.full(1, self._free, np.int64)  # by row
        self._next = np.zeros(1, np.int64)  # what each row gives next
        self._mark = np.zeros(1, np.int64)
        self._everyone: tuple[bytes | None, Rows] | None = None  # all streams, where no row is free
        # Single arrays of these numbers of streams and shapes have been checked, and their dtypes.
        self._checked: dict[Hashable, np.dtype[Any]] = {}
        self._owner = _Owner()

    @property
    def capacity(self) -> int:
        """The largest number of streams that may be open at once."""
        return self._capacity

    @property
    def streams(self) -> Rows:
        """The open streams, in the order in which stepping all of them is quickest."""
        streams: Rows = self._stream[self._stream != self._free]
        return streams

    def __len__(self) -> int:
        """How many streams are open."""
        return self._open

    def __contains__(self, stream: object) -> bool:
        """Whether a stream is open."""
        return isinstance(stream, int | np.integer) and stream in self.streams

    @overload
    def open(self) -> int: ...
    @overload
    def open(self, count: int) -> Rows: ...
    def open(self, count: int | None = None) -> int | Rows:
        """Opens a stream, or with `count` an array of so many, in the contract's initial state.

        Raises:
            InputError: there would be more than `capacity`; none is opened.
        """
        wanted = 1 if count is None else count
        if type(wanted) is not int or wanted < 1:
            raise InputError(f"count is {count!r}; a number of streams was expected, 1 or more.")
        with self._owner:
            if self._open + wanted > self._capacity:
                raise InputError(
                    f"{wanted} more would make {self._open + wanted} open streams; this pool holds "
                    f"{self._capacity}. Close some, or make a pool of a larger capacity."
                )
            if self._open + wanted > len(self._stream):
                self._grow(self._open + wanted)
            rows = np.flatnonzero(self._stream == self._free)[:wanted]
            if rows[-1] >= self._slab.rows:
                self._slab.resize(int(rows[-1]) + 1)
            self._slab.write_rows(rows, self._first)
            self._stream[rows] = self._next[rows]
            self._next[rows] += self._cycle
            self._open += wanted
            self._everyone = None
            return int(self._stream[rows[0]]) if count is None else self._stream[rows]

    def close(self, streams: int | Sequence[int] | Rows) -> None:
        """Closes a stream, or several. Their states are gone.

        Raises:
            InputError: one of them is not open, or is named twice; none is closed.
        """
        with self._owner:
            rows = self._rows(streams)
            self._stream[rows] = self._free
            self._open -= len(rows)
            self._everyone = None

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
            EngineError: the engine failed. No state has changed; of a list, the states of streams
                with chunks of another length may have.
        """
        self._owner.enter()  # and `with` would take a while longer
        try:
            rows = self._rows(streams)
            if type(xs) is np.ndarray:
                shape = xs.shape
                if self._checked.get((len(rows), shape)) is not xs.dtype:
                    self._check(self._named(xs), len(rows))
                    keep(self._checked, (len(rows), shape), xs.dtype, _CHECKED)
                return self._given(self._step(rows, (xs,), shape))
            if isinstance(xs, list | tuple):
                return self._step_each(rows, xs)
            named = xs if isinstance(xs, Mapping) else self._named(xs)
            self._check(named, len(rows))
            return self._given(self._step(rows, *self._ordered(named)))
        finally:
            self._owner.leave()

    def __getitem__(self, stream: int) -> PoolStream:
        """One stream of the pool, whose state can be read and written.

        Raises:
            InputError: it is not open.
        """
        self._rows(stream)
        return PoolStream(self, stream)

    def __repr__(self) -> str:
        return f"<stateport.Pool of {self._open} streams, at most {self._capacity}>"

    def _read(self, stream: int) -> State:
        with self._owner:
            return self._slab.read_rows(self._rows(stream))

    def _write(self, stream: int, state: State) -> None:
        with self._owner:
            check_state(self._contract, state, {"batch": 1})
            self._slab.write_rows(self._rows(stream), state)

    def _grow(self, rows: int) -> None:
        """Makes room for so many streams or more."""
        old, rows = len(self._stream), min(max(rows, 2 * len(self._stream)), self._capacity)
        free = np.full(rows - old, self._free, np.int64)
        self._stream = np.concatenate([self._stream, free])
        self._next = np.concatenate([self._next, np.arange(old, rows)])
        self._mark = np.zeros(rows, np.int64)

    def _rows(self, streams: int | Sequence[int] | Rows) -> Rows:
        """The rows of these streams, each of which is open and comes once.

        Arrays are compared as bytes: of a few hundred integers, that is far quicker.
        """
        found = np.asarray(streams)
        ids, everyone = self._everyone or self._find_everyone()
        if found.dtype is _INT64 and found.ndim == 1 and found.tobytes() == ids:
            return everyone
        if found.dtype.kind not in "iu" or found.ndim > 1 or not found.size:
            raise InputError(
                f"The streams are {streams!r}; integers that open() returned were expected, at "
                "least one."
            )
        found = np.atleast_1d(found.astype(np.int64, copy=False))
        rows: Rows = found % self._cycle
        # Of rows that there are not, the last one stands in, whose stream is another.
        there = self._stream.take(rows, mode="clip")
        if there.tobytes() != found.tobytes():
            wrong = found[there != found][0]
            raise InputError(
                f"There is no open stream {wrong} in this pool: it was closed, or open() never "
                "returned it."
            )
        order = np.arange(len(rows))
        self._mark[rows] = order
        if self._mark[rows].tobytes() != order.tobytes():
            values, counts = np.unique(found, return_counts=True)
            raise InputError(
                f"The stream {values[counts > 1][0]} is named twice in one call. Feed it one chunk "
                "after the other, or both as one longer chunk."
            )
        return rows

    def _find_everyone(self) -> tuple[bytes | None, Rows]:
        """The streams of all rows in order, as bytes, and their rows; None where a row is free."""
        first = self._stream[: self._open]
        whole = self._open > 0 and not (first == self._free).any()
        self._everyone = (first.tobytes() if whole else None, np.arange(self._open))
        return self._everyone

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

    def _ordered(self, inputs: Mapping[str, Array]) -> tuple[list[Array], tuple[object, ...]]:
        """The inputs in the contract's order, and their shapes."""
        arrays = [inputs[spec.name] for spec in self._contract.inputs]
        return arrays, tuple([array.shape for array in arrays])

    def _step(self, rows: Rows, inputs: Sequence[Array], shapes: Hashable) -> list[Array]:
        """One call of the engine."""
        if self._everyone is not None and rows is self._everyone[1]:
            if len(rows) < self._slab.rows:
                self._slab.resize(len(rows))  # the others are free
            return self._slab.step(inputs, shapes)
        return self._slab.step_some(rows, inputs, shapes)

    def _given(self, outputs: list[Array]) -> Any:
        """One output as it is, several as a dict by name."""
        if len(outputs) == 1:
            return outputs[0]
        return {s.name: y for s, y in zip(self._contract.outputs, outputs, strict=True)}

    def _step_each(self, rows: Rows, xs: Sequence[Array]) -> list[Any]:
        """Chunks that may differ in length."""
        (name,) = self._named(xs)
        axis = self._contract.inputs[0].shape.index("batch")
        if len(xs) != len(rows):
            raise InputError(f"{len(rows)} streams are named, and {len(xs)} chunks came.")
        alike: dict[object, list[int]] = {}
        for position, x in enumerate(xs):
            kind = (x.shape, x.dtype) if isinstance(x, np.ndarray) else None
            alike.setdefault(kind, []).append(position)
        groups = []
        for places in alike.values():  # all are checked before anything runs
            parts = [xs[place] for place in places]
            fits = isinstance(parts[0], np.ndarray) and parts[0].ndim >= axis
            joined = np.moveaxis(np.array(parts), 0, axis) if fits else parts[0]
            self._check({name: joined}, len(places))
            groups.append((places, joined))
        results: list[Any] = [None] * len(xs)
        axes = [spec.shape.index("batch") for spec in self._contract.outputs]
        for places, joined in groups:
            outputs = self._step(rows[places], (joined,), joined.shape)
            each = [np.moveaxis(y, axis, 0) for y, axis in zip(outputs, axes, strict=True)]
            for place, *parts in zip(places, *each, strict=True):
                results[place] = self._given(parts)
        return results


class _Owner:
    """A lock that nobody waits for: to find it taken is an error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Takes it.

        Raises:
            StateportError: it is taken.
        """
        if not self._lock.acquire(blocking=False):
            raise StateportError(
                "Another thread is using this pool, which has one owner. Give each thread a pool "
                "of its own (they can share the model), or hold a lock around every call."
            )

    def leave(self) -> None:
        """Gives it back."""
        self._lock.release()

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *_: object) -> None:
        self.leave()


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


def _check_contract(contract: Contract) -> None:
    """Refuses networks whose streams cannot be rows of one batch."""
    check_streaming(contract)
    states = contract.state_inputs
    for spec in (*contract.inputs, *contract.outputs, *states):
        known = {"batch"} if spec in states else {a for s in contract.inputs for a in s.shape}
        if spec.shape.count("batch") != 1:
            raise StreamingError(
                f"{spec.name!r} has no axis 'batch' of its own ({spec}), and the streams of a pool "
                "are the rows of a batch. Export the network with a dynamic batch, or use a Stream "
                "for each sequence."
            )
        if strange := [axis for axis in spec.shape if not _is_known(axis, known)]:
            raise StreamingError(
                f"The size of the axis {strange[0]!r} of {spec.name!r} is not known before a call. "
                "Use a Stream for each sequence."
            )


def _is_known(axis: Axis, known: Container[Axis]) -> bool:
    """Whether an axis has a size, or is computed from axes that have."""
    try:
        return all(name in known for name in names_in(axis))
    except KeyError:
        return False
