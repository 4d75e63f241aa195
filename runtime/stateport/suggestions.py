# SPDX-License-Identifier: Apache-2.0
"""The name that a person probably meant, for messages on a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Final

#: How like each other two names are at least, from 0 to 1.
_LEAST_LIKENESS: Final = 0.6
#: The shortest beginning of a name that stands for it.
_SHORTEST_BEGINNING: Final = 2


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A sentence with the known name that is most like this one; empty where none is.

    That is the first name that begins like this one, or else the most similar name. It begins with
    a space, so that it continues a message: " Did you mean 'x'?".
    """
    names, wanted = [*known], str(name)
    beginning = wanted.lower()
    if len(beginning) >= _SHORTEST_BEGINNING:
        for known_name in names:
            if known_name.lower().startswith(beginning):
                return f" Did you mean {known_name!r}?"

    best, best_likeness = None, (_LEAST_LIKENESS, 0.0)
    for known_name in names:
        likeness = (_likeness(known_name.lower(), beginning), _likeness(known_name, wanted))
        if likeness > best_likeness:
            best, best_likeness = known_name, likeness
    return "" if best is None else f" Did you mean {best!r}?"


def _likeness(known: str, wanted: str) -> float:
    return SequenceMatcher(None, known, wanted).ratio()
