# SPDX-License-Identifier: Apache-2.0
"""The file of a pool: the state of all its streams, and which row belongs to which stream.

It is a state's file with one more text in its metadata, `stateport.pool.streams`: a JSON list of
the streams, in the order of the rows.
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Final

from .errors import FileError
from .files.paths import usable_path
from .files.reading import parse_json
from .roster import Rows
from .state import State, read_state, write_state

_STREAMS: Final = "stateport.pool.streams"


def save_streams(path: str | PathLike[str], streams: Rows, state: State) -> None:
    """Writes the state of some streams, a row for each.

    Raises:
        FileError: the file cannot be written.
    """
    write_state(Path(path), state, {_STREAMS: json.dumps(streams.tolist())})


def load_streams(path: str | PathLike[str]) -> tuple[list[int], State]:
    """The streams in a file, and their states, a row for each.

    Raises:
        FileError: the file cannot be read, or no pool wrote it.
    """
    path = usable_path(path)
    state, metadata = read_state(path)
    if _STREAMS not in metadata:
        raise FileError(
            f"{path} holds one state, and the streams of a pool were expected, which Pool.save "
            "writes. For a single stream, assign it: pool[stream].state = State.load(path)."
        )

    try:
        return _parse_streams(metadata[_STREAMS]), state
    except ValueError as error:
        raise FileError(
            f"{path} does not say which streams it holds ({error}). Save the pool again."
        ) from error


def _parse_streams(text: str) -> list[int]:
    streams = parse_json(text)
    if not isinstance(streams, list) or not streams:
        raise ValueError("a list of streams was expected")
    if not all(type(stream) is int for stream in streams) or len({*streams}) < len(streams):
        raise ValueError("a stream is no integer, or is there twice")
    return streams
