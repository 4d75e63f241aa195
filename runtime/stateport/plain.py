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


#: What to write in place of an array of another library, by the module of its class.
_CONVERSIONS: Final = {
    "torch": "x.detach().cpu().numpy()",
    "jax": "numpy.asarray(x)",
    "jaxlib": "numpy.asarray(x)",
    "tensorflow": "x.numpy()",
    "cupy": "x.get()",
    "pandas": "x.to_numpy()",
    "polars": "x.to_numpy()",
}


def conversion(value: object) -> str:
    """A sentence on how a value becomes a NumPy array; empty where that is not known.

    It begins with a space, so that it continues a message.
    """
    library = type(value).__module__.partition(".")[0]
    expression = _CONVERSIONS.get(library)
    if expression is None and isinstance(value, list | tuple):
        expression = "numpy.array(x, dtype)"
    return "" if expression is None else f" Convert it: {expression}."


def is_special(value: object) -> bool:
    """Whether this is an array of another class."""
    return isinstance(value, np.ndarray) and type(value) not in PLAIN


def kind_of(value: object) -> str:
    """The class of a value, for a message: `a list`, `a numpy.matrix`."""
    kind = type(value)
    if kind.__module__ == "builtins":
        return f"a {kind.__qualname__}"
    return f"a {kind.__module__}.{kind.__qualname__}"
