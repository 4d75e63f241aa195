"""Which arrays are taken: plain ones, that mean no more than their numbers."""

from __future__ import annotations

from typing import Final

import numpy as np

#: The classes of arrays that are taken. Others mean more than their numbers, which would be lost
#: (a mask, a unit), or count their dimensions in another way (a matrix).
PLAIN: Final = (np.ndarray, np.memmap)

#: What to do about the others.
ADVICE: Final = (
    "a plain NumPy array was expected, because its numbers alone are used. If they are what is "
    "meant, pass numpy.asarray(x); of a masked array, x.filled(value) says what stands behind the "
    "mask."
)


def is_special(value: object) -> bool:
    """Whether this is an array of another class."""
    return isinstance(value, np.ndarray) and type(value) not in PLAIN


def kind_of(value: object) -> str:
    """What something is: `a list`, `a numpy.matrix`."""
    kind = type(value)
    builtin = kind.__module__ == "builtins"
    return f"a {kind.__qualname__ if builtin else f'{kind.__module__}.{kind.__qualname__}'}"
