# SPDX-License-Identifier: Apache-2.0
"""The state: the named arrays that one call returns and the next one takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from .contract import DTYPES, describe
from .errors import FileError, StateError
from .files.paths import usable_path
from .files.reading import parse_arrays, read_arrays
from .files.writing import written_atomically
from .plain import ADVICE, conversion, is_special, kind_of

_FORMAT: Final = {"stateport.state": "1"}


class State(Mapping[str, NDArray[Any]]):
    """The state of a sequence, or of a batch of sequences: a read-only mapping of names to arrays.

    The names are those of the model's state inputs. The shapes are PyTorch's:
    `(num_layers * num_directions, batch, hidden_size)` for an LSTM. A new state copies its arrays
    and makes the copies read-only, so that a state never changes.

    Raises:
        StateError: the argument is not a mapping of names to plain NumPy arrays of numbers.
    """

    # `_leftover` is the number of steps at the end of a call that are not in the state: those
    # behind the last multiple of steps that the network takes. A sequence cannot go on from there.
    __slots__ = ("_arrays", "_leftover")

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        if not isinstance(arrays, Mapping):
            raise StateError(
                f"The state is made of {kind_of(arrays)}; a dict of arrays by name was expected."
            )
        for name, array in arrays.items():
            _check_array(name, array)

        try:
            self._arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
        except MemoryError as error:
            raise StateError(f"There is no memory for a copy of the state: {error}.") from error

        self._leftover = 0
        for array in self._arrays.values():
            array.setflags(write=False)

    @classmethod
    def _adopt(cls, arrays: dict[str, NDArray[Any]], leftover: int = 0) -> State:
        """A state of arrays that nobody else refers to, which are not copied."""
        state = cls.__new__(cls)
        state._arrays = arrays
        state._leftover = leftover

        for array in arrays.values():
            array.setflags(write=False)
        return state

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        """Whether names, dtypes, shapes and all values are equal; NaN equals NaN."""
        if not isinstance(other, State):
            return NotImplemented
        if self.keys() != other.keys():
            return False
        return all(_are_equal(array, other[name]) for name, array in self.items())

    __hash__ = None  # type: ignore[assignment]  # a mapping of arrays cannot be hashed

    def __reduce__(self) -> tuple[Any, tuple[dict[str, NDArray[Any]], int]]:
        """Makes copies and unpickled states read-only too."""
        return _copied, (self._arrays, self._leftover)

    def __repr__(self) -> str:
        arrays = [f"{name}={describe(a.dtype, a.shape)}" for name, a in self.items()]
        return f"State({', '.join(arrays)})"

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the state to a safetensors file.

        Raises:
            StateError: a sequence cannot go on from this state; see `Model.__call__`.
            FileError: the file cannot be written. It is then left as it was.
        """
        write_state(Path(path), self, {})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> State:
        """Reads a state that `save` wrote.

        Raises:
            FileError: the file is missing, cannot be read, or does not hold a state.
        """
        state, _ = read_state(usable_path(path))
        return state

    def to_bytes(self) -> bytes:
        """The content of the file that `save` writes, for a database or a message.

        Raises:
            StateError: a sequence cannot go on from this state; see `Model.__call__`.
        """
        return _content(self, {})

    @classmethod
    def from_bytes(cls, content: bytes) -> State:
        """Reads a state from the content of a file that `save` wrote, or from `to_bytes`.

        Raises:
            StateError: `content` is not bytes.
            FileError: the bytes do not hold a state.
        """
        if not isinstance(content, bytes | bytearray | memoryview):
            raise StateError(
                f"The state is read from {kind_of(content)}; the bytes that State.to_bytes "
                "returned were expected."
            )

        arrays, metadata = parse_arrays(bytes(content), "The content")
        _check_format(metadata, "The content")
        return cls._adopt(arrays)


def write_state(path: Path, state: State, metadata: Mapping[str, str]) -> None:
    """Writes a state to a safetensors file, with further texts in its metadata.

    Raises:
        StateError, FileError: as `State.save`.
    """
    content = _content(state, metadata)
    with written_atomically(path) as temporary:
        temporary.write_bytes(content)


def read_state(path: Path) -> tuple[State, Mapping[str, str]]:
    """The state in a file, and the texts in the file's metadata.

    Raises:
        FileError: as `State.load`.
    """
    arrays, metadata = read_arrays(path)
    _check_format(metadata, str(path))
    return State._adopt(arrays), metadata


def _content(state: State, metadata: Mapping[str, str]) -> bytes:
    """A state as the content of a safetensors file."""
    check_can_go_on(state)
    # safetensors ignores strides and writes the memory of an array as it is.
    arrays = {name: np.array(array, order="C") for name, array in state.items()}
    return safetensors.numpy.save(arrays, {**metadata, **_FORMAT})


def _check_format(metadata: Mapping[str, str], source: str) -> None:
    if metadata.get("stateport.state") != "1":
        raise FileError(
            f"{source} holds no stateport state; State.save, Pool.save and `stateport run "
            "--state-out` write such files."
        )


def check_can_go_on(state: State) -> None:
    """Refuses a state that lacks the last steps of the call that returned it.

    Raises:
        StateError: with the number of steps.
    """
    if state._leftover:
        raise StateError(
            f"The call that returned this state left its last {state._leftover} steps out of it: "
            "their number is not a multiple of what the network takes at a time, so the sequence "
            "cannot go on. Feed a multiple, and keep the rest for the next call."
        )


def _copied(arrays: Mapping[str, NDArray[Any]], leftover: int) -> State:
    state = State(arrays)
    state._leftover = leftover
    return state


def _are_equal(array: NDArray[Any], expected: NDArray[Any]) -> bool:
    is_float = array.dtype.kind == "f"
    return array.dtype == expected.dtype and np.array_equal(array, expected, equal_nan=is_float)


def _check_array(name: object, array: object) -> None:
    """Checks that a name and a value can be part of a state."""
    if not isinstance(name, str) or not name:
        raise StateError(f"A state is named {name!r}; the name of a model's input was expected.")

    if not isinstance(array, np.ndarray):
        raise StateError(
            f"State {name!r} is {kind_of(array)}; a NumPy array was expected.{conversion(array)}"
        )
    if is_special(array):
        raise StateError(f"State {name!r} is {kind_of(array)}; {ADVICE}")

    if array.dtype.name not in DTYPES or not array.dtype.isnative:
        raise StateError(
            f"State {name!r} is an array of {array.dtype}; an array of numbers in this machine's "
            "byte order was expected."
        )
