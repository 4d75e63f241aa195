# SPDX-License-Identifier: Apache-2.0
"""States and answers as bytes, in the format of `State.save` (safetensors)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import safetensors.numpy

from ..errors import FileError
from ..files.reading import parse_arrays
from ..picking import map_values
from ..state import State
from .request import Array


def pack(arrays: Mapping[str, Array]) -> bytes:
    """Arrays by name as bytes."""
    # safetensors ignores strides and writes the memory of an array as it is.
    whole = map_values(np.ascontiguousarray, arrays)
    return safetensors.numpy.save(whole)


def unpack(data: bytes) -> dict[str, Array]:
    """The arrays that `pack` wrote, in the order of the format: by dtype, and then by name.

    Raises:
        FileError: these are no such bytes.
    """
    try:
        arrays, _ = parse_arrays(data, "The recorded answer")
    except FileError as error:
        raise damaged(error) from error
    return arrays


def unpack_state(data: bytes) -> State:
    """The state of a record. The caller checks it against the contract.

    Raises:
        FileError: these are no bytes of a state.
    """
    try:
        return State.from_bytes(data)
    except FileError as error:
        raise damaged(error) from error


def damaged(error: Exception) -> FileError:
    """The error for a record that is not what was written."""
    return FileError(
        f"The record in the store cannot be read ({error}); it was damaged, or another program "
        "wrote it. Begin the sequence anew."
    )
