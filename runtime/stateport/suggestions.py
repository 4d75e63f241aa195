# SPDX-License-Identifier: Apache-2.0
"""The name that a person probably meant, for messages on a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A sentence with the known name that is most like this one; empty where none is.

    It begins with a space, so that it continues a message: " Did you mean 'x'?".
    """
    names = [*known]
    wanted = str(name)
    by_lowercase = {known_name.lower(): known_name for known_name in reversed(names)}
    close = get_close_matches(wanted.lower(), by_lowercase, n=1)
    if close:
        return f" Did you mean {by_lowercase[close[0]]!r}?"
    return ""
