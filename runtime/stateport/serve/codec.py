# SPDX-License-Identifier: Apache-2.0
"""States and answers as bytes, in the format of `State.save` (safetensors)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import safetensors.numpy

from ..errors import FileError
from ..state import STATE_FORMAT, State
from .request import Array


def pack(arrays: Mapping[str, Array], *, is_state: bool = False) -> bytes:
    """Arrays by name as bytes."""
    # safetensors ignores strides and writes the memory of an array as it is.
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(whole, STATE_FORMAT if is_state else None)


def unpack(data: bytes) -> dict[str, Array]:
    """The arrays that `pack` wrote.

    Raises:
        FileError: these are no such bytes.
    """
    try:
        arrays: dict[str, Array] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise FileError(
            f"The record in the store cannot be read ({error}); it was damaged, or another program "
            "wrote it. Begin the sequence anew."
        ) from error
    return arrays


def unpack_state(data: bytes) -> State:
    """The state that `pack` wrote. The caller checks it against the contract.

    Raises:
        FileError: these are no such bytes.
    """
    return State(unpack(data))
