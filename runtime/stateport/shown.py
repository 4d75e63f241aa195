# SPDX-License-Identifier: Apache-2.0
"""Shows values from outside in a message: on one line, and shortened."""

from __future__ import annotations

import reprlib
from typing import Final

#: The longest text of a value, in characters.
_LONGEST: Final = 80


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = _LONGEST
        self.maxlong = 24
        self.maxlevel = 3

    def repr_int(self, number: int, level: int) -> str:
        """Replaces an integer of thousands of digits, which Python refuses to convert to text."""
        if number.bit_length() > 1024:
            return f"<an integer of {number.bit_length()} bits>"
        return super().repr_int(number, level)


_SHORT: Final = _Short()


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 step", "8 steps"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shown(value: object) -> str:
    """The `repr` of a value, with the middle of a long one left out."""
    return _SHORT.repr(value)
