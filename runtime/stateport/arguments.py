# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments that are not arrays."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from reprlib import repr as shortened

from .errors import InputError
from .plain import kind_of


def path_of(path: object) -> Path:
    """The argument as a `pathlib.Path`.

    Raises:
        InputError: it is not a str or a path-like object.
    """
    if not isinstance(path, str | PathLike):
        raise InputError(f"The path is {kind_of(path)}; a str or a pathlib.Path was expected.")
    return Path(path)


def check_states(states: object) -> None:
    """Checks that `states` maps names of inputs to names of outputs.

    Raises:
        InputError: it is not a mapping of str to str.
    """
    if not _is_mapping_of_names(states):
        raise InputError(
            f"states is {shortened(states)}; a dict was expected, from the name of each state "
            'input to the output that holds its next value: {"state": "stateN"}.'
        )


def _is_mapping_of_names(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    names = (*value.keys(), *value.values())
    return all(isinstance(name, str) for name in names)
