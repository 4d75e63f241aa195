"""Arguments that are no arrays: what they have to be."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from reprlib import repr as shortened

from .errors import InputError
from .plain import kind_of


def path_of(path: object) -> Path:
    """A path as one of pathlib.

    Raises:
        InputError: it is no path.
    """
    if isinstance(path, str | PathLike):
        return Path(path)
    raise InputError(f"The path is {kind_of(path)}; a str or a pathlib.Path was expected.")


def check_states(states: object) -> None:
    """Refuses what does not say which output gives the next value of which input.

    Raises:
        InputError: it is no mapping of names to names.
    """
    if isinstance(states, Mapping):
        names = [*states.keys(), *states.values()]
        if all(isinstance(name, str) for name in names):
            return
    raise InputError(
        f"states is {shortened(states)}; a dict was expected, of the names of inputs and the "
        'outputs that give their next values: {"state": "stateN"}.'
    )
