# SPDX-License-Identifier: Apache-2.0
"""When the state of a stream is safe in its store: before the answer leaves, or soon behind it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InputError
from ..shown import shown

#: How far the store may be behind, in seconds, if no number is given.
_DEFAULT = 0.1
_LONGEST = 60.0


@dataclass(frozen=True, slots=True)
class Durability:
    """When states are saved.

    Attributes:
        behind: how many seconds a state may be unsaved after its answer; None for `before`.
    """

    behind: float | None = None

    @classmethod
    def of(cls, text: str) -> Durability:
        """Reads "before", "behind", or "behind:MILLISECONDS".

        Raises:
            InputError: it is none of these.
        """
        if text == "before":
            return cls()
        if text == "behind":
            return cls(_DEFAULT)

        match = re.fullmatch(r"behind:(\d{1,5})", text) if isinstance(text, str) else None
        seconds = int(match[1]) / 1000 if match else 0.0
        if not 0 < seconds <= _LONGEST:
            raise InputError(
                f"The durability is {shown(text)}; 'before', 'behind', or 'behind:N' with 1 to "
                f"{int(_LONGEST * 1000)} milliseconds was expected."
            )
        return cls(seconds)
