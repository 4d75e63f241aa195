"""The text generator's alphabet: characters to integers and back, with NumPy alone.

Nothing here imports PyTorch, so the same file serves training and a deployed model.
"""

import string
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

#: Every character the network knows; a character's position here is its integer.
ALPHABET = "\n !'(),-.:;?" + string.ascii_uppercase + string.ascii_lowercase

#: A beginning from which the trained network, always taking the likeliest character, goes on for
#: 600 characters without running in circles; from most others it comes to repeat itself.
PROMPT = "In the house of the righteous"

_INDEX = {character: index for index, character in enumerate(ALPHABET)}


def encode(text: str) -> npt.NDArray[np.int64]:
    """Turn `text` into integers, int64 of shape (time,) with time = len(text).

    Raises ValueError for a character outside `ALPHABET`, with its position.
    """
    ids = np.empty(len(text), dtype=np.int64)
    for position, character in enumerate(text):
        if character not in _INDEX:
            raise ValueError(
                f"character {character!r} at position {position} is not in the alphabet; "
                f"expected one of {ALPHABET!r}"
            )
        ids[position] = _INDEX[character]
    return ids


def decode(ids: Iterable[int] | npt.NDArray[np.integer]) -> str:
    """Turn integers, any iterable of shape (time,), back into text.

    Raises ValueError for an integer outside 0 ... len(ALPHABET) - 1.
    """
    characters = []
    for position, index in enumerate(ids):
        if not 0 <= index < len(ALPHABET):
            raise ValueError(
                f"id {int(index)} at position {position} stands for no character; "
                f"expected 0 to {len(ALPHABET) - 1}"
            )
        characters.append(ALPHABET[index])
    return "".join(characters)
