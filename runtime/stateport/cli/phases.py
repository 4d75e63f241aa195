# SPDX-License-Identifier: Apache-2.0
"""The phases of a command's work, drawn on a terminal while it goes on, with the time of each."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

#: The most phases that are drawn above the present one.
_MOST_DONE = 8
#: A phase that took less than this many seconds is not worth a word at the end.
_WORTH_A_WORD = 0.1
#: How many pictures of the moving sign there are in a second.
_PICTURES = 10


class Phases:
    """What a command does and has done: `rich` draws a line for each phase.

    A phase is named by the text before the first ": "; what follows it is a detail, which changes
    while the phase goes on. A phase that comes again continues where it was.
    """

    def __init__(self, signs: str, done: str, clock: Callable[[], float] = perf_counter) -> None:
        """Starts the clock.

        Args:
            signs: the pictures of a sign that moves, one character each.
            done: the mark of a phase that is over.
            clock: gives the time in seconds.
        """
        self._signs = signs
        self._done = done
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._present: str | None = None
        self._detail = ""
        self._begin = clock()

    def __call__(self, text: str) -> None:
        """Begins a phase, or says more on the present one: "phase" or "phase: detail"."""
        name, _, self._detail = text.partition(": ")
        if name == self._present:
            return

        self.end()
        self._seconds.setdefault(name, 0.0)
        self._present = name

    def end(self) -> None:
        """Ends the present phase."""
        now = self._clock()
        if self._present is not None:
            self._seconds[self._present] += now - self._begin
        self._present = None
        self._begin = now

    def summary(self) -> str | None:
        """How long the whole took, and each phase; None for less than a second."""
        total = sum(self._seconds.values())
        if total < 1.0:
            return None

        parts = []
        for name, seconds in self._seconds.items():
            if name and seconds >= _WORTH_A_WORD:
                parts.append(f"{name} {seconds:.1f} s")

        return f"{total:.1f} s in all: {', '.join(parts)}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws the phases that are over, and the present one with the time so far."""
        over = [(n, s) for n, s in self._seconds.items() if n and n != self._present]
        for name, seconds in over[-_MOST_DONE:]:
            yield _line(console, self._done, name, seconds, "dim")

        if self._present:
            now = self._clock()
            sign = self._signs[int(now * _PICTURES) % len(self._signs)]
            seconds = self._seconds[self._present] + now - self._begin
            name = f"{self._present}: {self._detail}" if self._detail else self._present
            yield _line(console, sign, name, seconds, "")


def _line(console: Console, sign: str, name: str, seconds: float, style: str) -> Text:
    """One line, in which a name that is too long is cut and the time never is."""
    time = f"  {seconds:.1f} s"
    text = console.render_str(name)
    text.truncate(max(console.width - len(time) - 3, 1), overflow="ellipsis")
    return Text.assemble(
        (sign, "green"), " ", text, (time, "dim"), style=style, no_wrap=True, overflow="crop"
    )
