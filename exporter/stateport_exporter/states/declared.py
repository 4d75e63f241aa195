"""What the caller says of states: `states={"past_k": "k", "mask": None}`, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from stateport.contract import describe

from ..errors import ExportError
from ..graph.dataflow import axes

Path = tuple[str, ...]
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
        argument = _argument(name, arguments)
        if argument in positions:
            raise ExportError(f"The argument {name!r} is named twice among the states.")
        positions[argument] = None if result is None else _result(result, results)
        _check(graph, name, argument, result, positions[argument])
    named = [result for result in positions.values() if result is not None]
    for result in named:
        if named.count(result) > 1:
            raise ExportError(
                f"Two states have {_shown(result, results[result])} as their next value. Name one "
                "result for each."
            )
    return positions


def _argument(name: object, paths: Sequence[Path]) -> int:
    fits = [i for i, path in enumerate(paths) if name in (".".join(path), "_".join(path))]
    if len(fits) != 1:
        known = ", ".join(".".join(path) for path in paths)
        raise ExportError(
            f"There is no argument {name!r} to be a state, or not; there are {known}."
        )
    return fits[0]


def _result(name: object, paths: Sequence[Path]) -> int:
    known = ", ".join(_shown(i, path) for i, path in enumerate(paths))
    fits = [i for i, path in enumerate(paths) if str(name) in _names(i, path)]
    if not fits:
        raise ExportError(f"There is no result {name!r} to be a state; there are {known}.")
    if len(fits) > 1:
        numbers = " and ".join(str(i + 1) for i in fits)
        raise ExportError(f"The results {numbers} are all called {name!r}. Say which by number.")
    return fits[0]


def _names(position: int, path: Path) -> tuple[str, ...]:
    """What a result may be called: by its number; by its path, if that is more than places."""
    if all(key.isdigit() for key in path):
        return (str(position + 1),)
    return (str(position + 1), ".".join(path), "_".join(path))


def _shown(position: int, path: Path) -> str:
    named = any(not key.isdigit() for key in path)
    return f"result {position + 1}" + (f" ({'.'.join(path)})" if named else "")


def _check(graph: ir.Graph, name: str, argument: int, result: object, position: int | None) -> None:
    given = graph.inputs[argument]
    if position is None:
        return
    gives = graph.outputs[position]
    if axes(given) != axes(gives) or given.dtype != gives.dtype:
        raise ExportError(
            f"The argument {name!r} and the result {result!r} cannot be one state: the argument is "
            f"{_described(given)}, the result {_described(gives)}."
        )
    if "time" in axes(given):
        raise ExportError(
            f"The argument {name!r} cannot be a state: it is {_described(given)}, and time has "
            "another size in every call."
        )


def _described(value: ir.Value) -> str:
    dtype = "unknown" if value.dtype is None else value.dtype.numpy().name
    return describe(dtype, axes(value))
