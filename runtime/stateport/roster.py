"""The roster: which stream has which row of a pool's buffers."""

from __future__ import annotations

from reprlib import repr as shortened
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

Rows = NDArray[np.int64]
_INT64: Final = np.dtype(np.int64)
_LARGEST: Final = 2**63 - 1

#: More rows than any memory holds. With so many, each row can be given two thousand million times.
_MOST_ROWS: Final = 2**32


class Roster:
    """Which stream has which row: a value. Opening and closing streams make another one.

    A stream is an integer: its row plus a multiple of `cycle`, another one each time that the row
    is given. So an integer that was closed is never valid again.
    """

    def __init__(self, capacity: int, streams: Rows, following: Rows, count: int) -> None:
        """See `empty`, with which every roster begins."""
        self.capacity = capacity
        self.open = count
        self._cycle = min(capacity, _MOST_ROWS) + 1
        # The number that a free row holds leads to no row at all, so that no integer is ever equal.
        self._free = self._cycle - 1
        # By row, and behind the last row a number that leads to the first one. Integers that lead
        # to no row are looked up there, and so are never equal either.
        self._streams = streams
        self._next = following  # what each row gives next
        self._everyone: tuple[bytes | None, Rows] | None = None
        self._mark: Rows | None = None

    @classmethod
    def empty(cls, capacity: int) -> Roster:
        """A roster of no streams, which takes up to `capacity` of them."""
        streams = np.array([min(capacity, _MOST_ROWS), 0], np.int64)
        return cls(capacity, streams, np.zeros(1, np.int64), 0)

    def opened(self, count: int) -> tuple[Roster, Rows]:
        """With so many streams more, and the rows that they have.

        Raises:
            InputError: there would be more than `capacity`, or more than there is memory for.
        """
        total = self.open + count
        if total > self._free:
            raise InputError(
                f"{count} more would make {total} open streams; this pool holds {self.capacity}. "
                "Close some, or make a pool of a larger capacity."
            )
        try:
            streams, following = self._room(total)
        except (MemoryError, ValueError) as error:
            raise InputError(f"There is no memory for {total} streams: {error}.") from error
        rows = np.flatnonzero(streams == self._free)[:count]
        numbers = following[rows]
        if numbers.max() > _LARGEST - self._cycle:
            raise InputError(
                "This pool has opened as many streams as it has numbers for. Make another pool."
            )
        streams[rows] = numbers
        following[rows] = numbers + self._cycle
        return Roster(self.capacity, streams, following, total), rows

    def closed(self, rows: Rows) -> Roster:
        """Without the streams in these rows."""
        streams = self._streams.copy()
        streams[rows] = self._free
        return Roster(self.capacity, streams, self._next, self.open - len(rows))

    @property
    def streams(self) -> Rows:
        """The open streams, in the order of their rows."""
        streams: Rows = self._streams[:-1][self._streams[:-1] != self._free]
        return streams

    def of(self, rows: Rows) -> Rows:
        """The streams in these rows."""
        streams: Rows = self._streams[rows]
        return streams

    @property
    def everyone(self) -> tuple[bytes | None, Rows]:
        """The streams of all rows in order, as bytes, and their rows; None where a row is free."""
        if self._everyone is None:
            first = self._streams[: self.open]
            whole = self.open > 0 and not (first == self._free).any()
            self._everyone = (first.tobytes() if whole else None, np.arange(self.open))
        return self._everyone

    def rows(self, streams: object) -> Rows:
        """The rows of these streams, each of which is open and comes once.

        Arrays are compared as bytes: of a few hundred integers, that is far quicker.

        Raises:
            InputError: they are no integers, one is not open, or one comes twice.
        """
        array = streams if type(streams) is np.ndarray else _integers(streams)
        ids, everyone = self._everyone or self.everyone
        if array.dtype is _INT64 and array.ndim == 1 and array.tobytes() == ids:
            return everyone
        if array.dtype.kind not in "iu" or array.ndim > 1 or not array.size:
            raise _no_integers(streams)
        numbers = np.atleast_1d(array.astype(np.int64, copy=False))
        rows: Rows = numbers % self._cycle
        holders = self._streams.take(rows, mode="clip")
        if holders.tobytes() != numbers.tobytes():
            wrong = np.atleast_1d(array)[holders != numbers][0]
            raise InputError(
                f"There is no open stream {wrong} in this pool: it was closed, or open() never "
                "returned it."
            )
        if len(rows) > 1:
            self._refuse_twice(rows, numbers)
        return rows

    def _refuse_twice(self, rows: Rows, numbers: Rows) -> None:
        if self._mark is None:
            self._mark = np.zeros_like(self._next)
        order = np.arange(len(rows))
        self._mark[rows] = order
        if self._mark[rows].tobytes() != order.tobytes():
            values, counts = np.unique(numbers, return_counts=True)
            raise InputError(
                f"The stream {values[counts > 1][0]} is named twice in one call. Feed it one chunk "
                "after the other, or both as one longer chunk."
            )

    def _room(self, total: int) -> tuple[Rows, Rows]:
        """Copies of both arrays, with room for so many streams."""
        old = len(self._next)
        if total <= old:
            return self._streams.copy(), self._next.copy()
        rows = min(max(total, 2 * old), self._free)
        free = np.full(rows - old, self._free, np.int64)
        streams = np.concatenate([self._streams[:-1], free, self._streams[-1:]])
        return streams, np.concatenate([self._next, np.arange(old, rows)])


def is_integer(stream: object) -> bool:
    """Whether this can be a stream: an integer, and neither True nor False."""
    return isinstance(stream, int | np.integer) and not isinstance(stream, bool)


def _integers(streams: object) -> NDArray[Any]:
    """An array of what came, which is none of NumPy's own."""
    if isinstance(streams, np.ndarray):  # of another class: one with a mask, or a matrix
        raise _no_integers(streams)
    try:
        return np.asarray(streams)
    except (TypeError, ValueError, OverflowError) as error:  # lists of several lengths, and such
        raise _no_integers(streams) from error


def _no_integers(streams: object) -> InputError:
    return InputError(
        f"The streams are {shortened(streams)}; integers that open() returned were expected, at "
        "least one."
    )
