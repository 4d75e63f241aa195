"""The state: the named arrays that go from one call into the next, as a plain value."""

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
from .files.reading import read_arrays
from .files.writing import written_atomically
from .plain import ADVICE, is_special, kind_of

_FORMAT: Final = {"stateport.state": "1"}


class State(Mapping[str, NDArray[Any]]):
    """The state of one sequence, or of a batch of them: a read-only mapping of name to array.

    The names are the model's state inputs; the shapes follow PyTorch,
    `(num_layers * num_directions, batch, hidden_size)` for an LSTM. The arrays are copied when the
    state is made and cannot be written to, so a state never changes under its owner.

    Raises:
        StateError: what it is made of is no mapping of names to plain NumPy arrays of numbers.
    """

    __slots__ = ("_arrays",)

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        if not isinstance(arrays, Mapping):
            raise StateError(
                f"A state is made of a dict of arrays by name; {kind_of(arrays)} came."
            )
        for name, array in arrays.items():
            _check(name, array)
        try:
            self._arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
        except MemoryError as error:
            raise StateError(f"There is no memory for a copy of the state: {error}.") from error
        for array in self._arrays.values():
            array.setflags(write=False)

    @classmethod
    def _adopt(cls, arrays: dict[str, NDArray[Any]]) -> State:
        """A state around arrays that nobody else holds: without the copy."""
        state = cls.__new__(cls)
        state._arrays = arrays
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
        """Equal when names, dtypes, shapes and every bit pattern's value are; NaN equals NaN."""
        if not isinstance(other, State):
            return NotImplemented
        return self.keys() == other.keys() and all(
            array.dtype == other[name].dtype
            and np.array_equal(array, other[name], equal_nan=array.dtype.kind == "f")
            for name, array in self.items()
        )

    __hash__ = None  # type: ignore[assignment]  # it holds arrays, as a list would

    def __reduce__(self) -> tuple[type[State], tuple[dict[str, NDArray[Any]]]]:
        """Copies and pickles are made anew, so that theirs are read-only too."""
        return State, (self._arrays,)

    def __repr__(self) -> str:
        return f"State({', '.join(f'{n}={describe(a.dtype, a.shape)}' for n, a in self.items())})"

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the state to a safetensors file, whole or not at all.

        Raises:
            FileError: the file cannot be written.
        """
        with written_atomically(Path(path)) as temporary:
            # safetensors writes an array's memory as it lies, whatever its strides say.
            arrays = {name: np.array(array, order="C") for name, array in self.items()}
            temporary.write_bytes(safetensors.numpy.save(arrays, _FORMAT))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> State:
        """Reads a state that `save` wrote.

        Raises:
            FileError: the file is not there, cannot be read, or is not a state.
        """
        path = usable_path(path)
        arrays, metadata = read_arrays(path)
        if metadata.get("stateport.state") != "1":
            raise FileError(
                f"{path} holds no stateport state; State.save and `stateport run --state-out` "
                "write such files."
            )
        return cls._adopt(arrays)


def _check(name: object, array: object) -> None:
    """Refuses what cannot be part of a state."""
    if not isinstance(name, str) or not name:
        raise StateError(f"A state is named {name!r}; the name of a model's input was expected.")
    if not isinstance(array, np.ndarray):
        raise StateError(
            f"State {name!r} is a {type(array).__qualname__}; a NumPy array was expected."
        )
    if is_special(array):
        raise StateError(f"State {name!r} is {kind_of(array)}; {ADVICE}")
    if array.dtype.name not in DTYPES or not array.dtype.isnative:
        raise StateError(
            f"State {name!r} is an array of {array.dtype}; one of numbers was expected, in this "
            "machine's order of bytes."
        )
