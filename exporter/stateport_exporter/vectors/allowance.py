# SPDX-License-Identifier: Apache-2.0
"""How long recording may take: of a slow network, fewer and shorter cases are recorded.

What a case costs is known from the cases before it. So a network within the bound, which nearly
all are, is recorded in full, and always in the same way. Seconds are those of the processor: on a
busy machine, the clock would shorten what is recorded in full elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from time import process_time
from typing import Final

from stateport.parity.vectors import Case

#: Seconds of the processor that recording may take, apart from cases that are never left out.
RECORDING_SECONDS: Final = 120.0
#: Shorter sequences are never left out, and chains never have fewer calls.
SHORTEST: Final = 64
#: The runs of each case: one for the truth, and two for PyTorch's error in float32.
_RUNS: Final = 3
#: The share of what remains that one case may use.
_SHARE: Final = 0.5


class Allowance:
    """The time that recording may take, and what was shortened to stay within it.

    Args:
        seconds: the time in all.
        clock: gives the time in seconds, by default that of the processor.
    """

    def __init__(
        self, seconds: float = RECORDING_SECONDS, clock: Callable[[], float] = process_time
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._start = clock()
        self._per_step: dict[bool, float] = {}
        self._whole_sequences = 0.0
        self._notes: list[str] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """What was shortened, one sentence each."""
        return tuple(self._notes)

    @contextlib.contextmanager
    def measured(self, case: Case) -> Iterator[None]:
        """Measures how long the truth of a case takes, which is computed inside."""
        begin = self._clock()
        yield
        seconds = self._clock() - begin

        whole = len(case.chunks) == 1
        if whole:
            self._whole_sequences += seconds
        self._per_step[whole] = seconds / _work(case)

    def calls(self, case: Case) -> int:
        """The number of calls of a case that are recorded; 0 where it is left out."""
        calls, steps = len(case.chunks), sum(case.chunks)
        if calls <= SHORTEST and (calls > 1 or steps <= SHORTEST):
            return calls

        per_step = self._per_step.get(calls == 1, 0.0)
        expected = per_step * _work(case) * _RUNS
        most = max(self._remaining(), 0.0) * _SHARE
        if expected <= most:
            return calls

        fewer = 0 if calls == 1 else max(SHORTEST, int(calls * most / expected))
        what = "left out" if fewer == 0 else f"cut to {fewer} calls"
        self._notes.append(
            f"{case.name!r} was {what}: its recording would take {expected:.0f} s, and all of it "
            f"may take {self._seconds:.0f} s"
        )
        return fewer

    def copies(self, most: int) -> int:
        """The number of copies of the network that whole sequences are run on, at least 1."""
        if self._whole_sequences == 0.0 or most == 0:
            return most

        # Two runs in float32 come first; one in float32 takes no longer than one in float64.
        remaining = self._remaining() - 2 * self._whole_sequences
        fitting = max(1, min(most, int(remaining / self._whole_sequences)))
        if fitting < most:
            self._notes.append(
                f"PyTorch's rounding was measured on {fitting} of {most} copies of the network: "
                f"each takes {self._whole_sequences:.0f} s, and all recording may take "
                f"{self._seconds:.0f} s"
            )
        return fitting

    def _remaining(self) -> float:
        return self._seconds - (self._clock() - self._start)


def _work(case: Case) -> int:
    """What a case costs, up to a factor: the elements of whole sequences, or the calls."""
    if len(case.chunks) > 1:
        return len(case.chunks)
    return sum(case.chunks) * case.sizes.get("batch", 1)
