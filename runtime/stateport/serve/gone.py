# SPDX-License-Identifier: Apache-2.0
"""Streams that are gone: why, and for a while their last answers, for repeated requests."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from .live import Numbered
from .request import SequenceId

#: Of how many streams it is remembered why they are gone, and how large their answers are together.
_MOST: Final = 10_000
_MOST_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Gone:
    """Why a stream is gone, until when that is remembered, and its last answer if it is kept."""

    reason: str
    until: float
    last: Numbered | None = None

    @property
    def nbytes(self) -> int:
        """The size of the last answer."""
        return 0 if self.last is None else self.last.nbytes


class GoneStreams:
    """Streams that are gone. The oldest are forgotten if there are too many, or too large ones."""

    def __init__(self, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._gone: OrderedDict[SequenceId, Gone] = OrderedDict()
        self._bytes = 0

    def get(self, sequence: SequenceId) -> Gone | None:
        """What is remembered of a stream; None if it never was, or is forgotten."""
        return self._gone.get(sequence)

    def add(self, sequence: SequenceId, gone: Gone) -> None:
        """Remembers a stream."""
        self.forget(sequence)
        self._gone[sequence] = gone
        self._bytes += gone.nbytes
        while len(self._gone) > self._most or (
            self._bytes > self._most_bytes and len(self._gone) > 1
        ):
            self.forget(next(iter(self._gone)))

    def forget(self, sequence: SequenceId) -> None:
        """Forgets a stream, if it is remembered."""
        gone = self._gone.pop(sequence, None)
        if gone is not None:
            self._bytes -= gone.nbytes

    def expire(self, now: float) -> None:
        """Forgets what was remembered for long enough."""
        for sequence, gone in [*self._gone.items()]:
            if gone.until < now:
                self.forget(sequence)
