"""Values from outside in a message: in one line, and never longer than a line can be read."""

from __future__ import annotations

import reprlib
from typing import Final

_MOST: Final = 80


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = _MOST
        self.maxlong = 24
        self.maxlevel = 3

    def repr_int(self, number: int, level: int) -> str:
        """Python refuses to write an integer of thousands of digits."""
        if number.bit_length() > 1024:
            return f"<an integer of {number.bit_length()} bits>"
        return super().repr_int(number, level)


_SHORT: Final = _Short()


def shown(value: object) -> str:
    """A value as Python writes it, cut in the middle where it is long."""
    return _SHORT.repr(value)
