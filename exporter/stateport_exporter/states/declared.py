# SPDX-License-Identifier: Apache-2.0
"""The states that the caller declares: `states={"past_k": "k", "mask": None}`, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import starmap

import onnx_ir as ir

from stateport.contract import describe
from stateport.suggestions import did_you_mean

from ..errors import ExportError
from ..graph.dataflow import axes, dtype_of, same_kind
from .names import Path, has_name

#: The name of an argument -> the name, or the number from 1, of the result that gives its next
#: value; None for an argument that is no state.
Declared = Mapping[str, str | int | None]


def positions_of(
    declared: Declared, graph: ir.Graph, arguments: Sequence[Path], results: Sequence[Path]
) -> dict[int, int | None]:
    """The positions of the arguments and results that the caller names.

    Raises:
        ExportError: a name is that of no argument or result, or of several; an argument is named
            twice, or a result for two arguments; or the two differ in axes or dtype.
    """
    positions: dict[int, int | None] = {}
    for name, result in declared.items():
        argument = _argument_position(name, arguments)
        if argument in positions:
            raise ExportError(f"The argument {name!r} is named twice among the states.")
        if result is None:
            positions[argument] = None
            continue

        position = _result_position(result, results)
        _check_pair(name, graph.inputs[argument], result, graph.outputs[position])
        positions[argument] = position

    _check_distinct(positions, results)
    return positions


def _argument_position(name: object, paths: Sequence[Path]) -> int:
    fits = []
    for position, path in enumerate(paths):
        if name in _path_names(path):
            fits.append(position)

    if len(fits) != 1:
        known = ", ".join(".".join(path) for path in paths)
        raise ExportError(
            f"The declared argument {name!r} does not exist; the arguments are {known}."
            f"{did_you_mean(name, map('.'.join, paths))}"
        )
    return fits[0]


def _result_position(name: object, paths: Sequence[Path]) -> int:
    fits = []
    for i, path in enumerate(paths):
        if str(name) in _result_names(i, path):
            fits.append(i)

    if not fits:
        known = ", ".join(starmap(described_result, enumerate(paths)))

        names = []
        for path in paths:
            if has_name(path):
                names.append(".".join(path))

        raise ExportError(
            f"The declared result {name!r} does not exist; the results are {known}."
            f"{did_you_mean(name, names)}"
        )
    if len(fits) > 1:
        numbers = " and ".join(str(i + 1) for i in fits)
        raise ExportError(f"The results {numbers} are all called {name!r}. Name one by its number.")
    return fits[0]


def _check_distinct(positions: Mapping[int, int | None], results: Sequence[Path]) -> None:
    """Checks that no result is the next value of two states."""
    seen: set[int] = set()
    for position in positions.values():
        if position is None:
            continue

        if position in seen:
            result = described_result(position, results[position])
            raise ExportError(
                f"Two states have {result} as their next value. Name one result for each."
            )
        seen.add(position)


def _result_names(position: int, path: Path) -> tuple[str, ...]:
    """What a result may be called: its number, and its path if that is more than numbers."""
    number = str(position + 1)
    if has_name(path):
        return (number, *_path_names(path))
    return (number,)


def _path_names(path: Path) -> tuple[str, str]:
    """How a path may be written: "state.0" or "state_0"."""
    return ".".join(path), "_".join(path)


def described_result(position: int, path: Path) -> str:
    """What messages call a result: its number and, if it has one, its name."""
    name = f" ({'.'.join(path)})" if has_name(path) else ""
    return f"result {position + 1}{name}"


def _check_pair(name: str, argument: ir.Value, result_name: object, result: ir.Value) -> None:
    """Checks that an argument and a result can be one state."""
    if not same_kind(argument, result):
        raise ExportError(
            f"The argument {name!r} and the result {result_name!r} cannot be one state: the "
            f"argument is {_described_value(argument)}, the result {_described_value(result)}."
        )
    if "time" in axes(argument):
        raise ExportError(
            f"The argument {name!r} cannot be a state: it is {_described_value(argument)}, and "
            "time has another size in every call."
        )


def _described_value(value: ir.Value) -> str:
    return describe(dtype_of(value), axes(value))
