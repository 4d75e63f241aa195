# SPDX-License-Identifier: Apache-2.0
"""Plain NumPy arrays, the only ones that are accepted."""

from __future__ import annotations

from typing import Final

import numpy as np

#: The classes of arrays that are accepted. Other classes hold more than numbers, which would be
#: lost (a mask, a unit), or count their dimensions in another way (a matrix).
PLAIN: Final = (np.ndarray, np.memmap)

#: The end of the message that refuses an array of another class.
ADVICE: Final = (
    "a plain NumPy array was expected, because everything but the numbers would be lost. Pass "
    "numpy.asarray(x) to use the numbers alone, or x.filled(value) to fill a masked array."
)


def is_special(value: object) -> bool:
    """Whether this is an array of another class."""
    return isinstance(value, np.ndarray) and type(value) not in PLAIN


def kind_of(value: object) -> str:
    """The class of a value, for a message: `a list`, `a numpy.matrix`."""
    kind = type(value)
    if kind.__module__ == "builtins":
        return f"a {kind.__qualname__}"
    return f"a {kind.__module__}.{kind.__qualname__}"
