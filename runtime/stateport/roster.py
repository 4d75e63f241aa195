# SPDX-License-Identifier: Apache-2.0
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

#: More rows than any memory holds. With this many, each row can be assigned two billion times.
_MOST_ROWS: Final = 2**32


class Roster:
    """Which stream has which row. Opening and closing streams returns a new roster.

    A stream is an integer: its row plus a multiple of `_cycle`, with a new multiple each time that
    the row is assigned. Therefore the integer of a closed stream is never valid again.
    """

    def __init__(self, capacity: int, streams: Rows, following: Rows, count: int) -> None:
        """Use `empty` for the first roster.

        Args:
            capacity: the largest number of open streams.
            streams: the stream in each row, and a last element that belongs to no row.
            following: the stream that each row is assigned next.
            count: how many streams are open.
        """
        self.capacity = capacity
        self.open = count
        self._cycle = min(capacity, _MOST_ROWS) + 1
        # Free rows hold a number that no stream's number maps to, so it never compares equal.
        self._free = self._cycle - 1
        # The last element holds 0, which maps to the first row. Numbers that map to no row are
        # looked up in the last element, and so never compare equal either.
        self._streams = streams
        self._next = following
        self._everyone: tuple[bytes | None, Rows] | None = None
        self._mark: Rows | None = None

    @classmethod
    def empty(cls, capacity: int) -> Roster:
        """A roster of up to `capacity` streams, none of which is open."""
        streams = np.array([min(capacity, _MOST_ROWS), 0], np.int64)
        return cls(capacity, streams, np.zeros(1, np.int64), 0)

    def opened(self, count: int) -> tuple[Roster, Rows]:
        """The roster with `count` more streams, and the rows of these.

        Raises:
            InputError: there would be more than `capacity` streams, or there is not enough memory.
        """
        total = self.open + count
        if total > self._free:
            raise InputError(
                f"{count} more would make {total} open streams; this pool holds {self.capacity}. "
                "Close some, or make a pool of a larger capacity."
            )
        try:
            streams, following = self._copy_with_room(total)
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
        """The roster without the streams in these rows."""
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
        """All open streams in the order of their rows, as bytes, and these rows.

        The bytes are None if no stream is open, or a row before the last open one is free.
        """
        if self._everyone is None:
            first = self._streams[: self.open]
            has_no_gap = self.open > 0 and not (first == self._free).any()
            self._everyone = (first.tobytes() if has_no_gap else None, np.arange(self.open))
        return self._everyone

    def rows(self, streams: object) -> Rows:
        """The rows of these streams: int64 (streams,).

        Raises:
            InputError: they are not integers, one is not open, or one is named twice.
        """
        # Arrays are compared as bytes, which is much faster for a few hundred integers.
        array = streams if type(streams) is np.ndarray else _as_array(streams)
        all_streams, all_rows = self._everyone or self.everyone
        if array.dtype is _INT64 and array.ndim == 1 and array.tobytes() == all_streams:
            return all_rows

        if array.dtype.kind not in "iu" or array.ndim > 1 or not array.size:
            raise _not_integers(streams)
        return self._look_up(array)

    def _look_up(self, array: NDArray[Any]) -> Rows:
        """The rows of the streams in an array of integers with one dimension or none."""
        numbers = array.astype(np.int64, copy=False).reshape(-1)
        rows: Rows = numbers % self._cycle
        holders = self._streams.take(rows, mode="clip")

        if holders.tobytes() != numbers.tobytes():
            unknown = array.reshape(-1)[holders != numbers][0]
            raise InputError(
                f"There is no open stream {unknown} in this pool: it was closed, or open() never "
                "returned it."
            )
        if len(rows) > 1:
            self._check_unique(rows, numbers)
        return rows

    def _check_unique(self, rows: Rows, numbers: Rows) -> None:
        if self._mark is None:
            self._mark = np.zeros_like(self._next)

        # Of a row that is named twice, the second position overwrites the first.
        order = np.arange(len(rows))
        self._mark[rows] = order
        if self._mark[rows].tobytes() != order.tobytes():
            values, counts = np.unique(numbers, return_counts=True)
            raise InputError(
                f"The stream {values[counts > 1][0]} is named twice in one call. Feed it one chunk "
                "after the other, or both as one longer chunk."
            )

    def _copy_with_room(self, total: int) -> tuple[Rows, Rows]:
        """Copies of both arrays, with at least `total` rows."""
        old = len(self._next)
        if total <= old:
            return self._streams.copy(), self._next.copy()

        # Doubling the rows keeps the cost of opening streams one by one linear.
        rows = min(max(total, 2 * old), self._free)
        free = np.full(rows - old, self._free, np.int64)
        streams = np.concatenate([self._streams[:-1], free, self._streams[-1:]])
        return streams, np.concatenate([self._next, np.arange(old, rows)])


def is_integer(stream: object) -> bool:
    """Whether a value is an integer, and not a bool."""
    return isinstance(stream, int | np.integer) and not isinstance(stream, bool)


def _as_array(streams: object) -> NDArray[Any]:
    """The value as an array. It is not a plain array yet."""
    if isinstance(streams, np.ndarray):  # of a subclass: a masked array, or a matrix
        raise _not_integers(streams)
    try:
        return np.asarray(streams)
    except (TypeError, ValueError, OverflowError) as error:  # such as lists of several lengths
        raise _not_integers(streams) from error


def _not_integers(streams: object) -> InputError:
    return InputError(
        f"The streams are {shortened(streams)}; integers that open() returned were expected, at "
        "least one."
    )
