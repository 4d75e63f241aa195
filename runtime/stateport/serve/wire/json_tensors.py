# SPDX-License-Identifier: Apache-2.0
"""Tensors as JSON values: flat, row by row, or nested as deep as the shape.

JSON has no word for NaN and the infinities. They travel as the strings "NaN", "Infinity" and
"-Infinity", both ways. Source: the JSON form of `float` in protobuf,
https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...shown import shown
from ..errors import ServeError, Status
from .datatypes import check_shape, dtype_of

_NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
#: The kind of a dtype -> the Python types of its JSON values.
_TYPES: Final[dict[str, frozenset[type]]] = {
    "b": frozenset({bool}),
    "u": frozenset({int}),
    "i": frozenset({int}),
    "f": frozenset({int, float}),
}
_WORDS: Final = {"b": "true and false", "u": "whole numbers", "i": "whole numbers", "f": "numbers"}


def array_from_json(name: str, datatype: object, shape: object, data: object) -> NDArray[Any]:
    """An array from JSON values.

    Args:
        name: the input's name, for messages.
        datatype: the protocol's name of the dtype.
        shape: the shape.
        data: the values in a flat list, or in lists nested as the shape says.

    Raises:
        ServeError: the dtype, the shape, the number of values, or a value is wrong.
    """
    dtype = dtype_of(name, datatype)
    sizes = check_shape(name, shape)
    values = _flat(name, sizes, data)

    types = set(map(type, values))
    if dtype.kind == "f" and str in types:
        values = [
            _NOT_FINITE.get(value, value) if type(value) is str else value for value in values
        ]
        types = set(map(type, values))
    if not types <= _TYPES[dtype.kind]:
        raise _value_error(name, datatype, _first_of_wrong_type(values, _TYPES[dtype.kind]), dtype)

    _check_range(name, datatype, dtype, values)
    return _converted(name, datatype, dtype, values).reshape(sizes)


def json_of(array: NDArray[Any]) -> NDArray[Any] | list[Any]:
    """The values of an array in one flat sequence, for orjson with `OPT_SERIALIZE_NUMPY`.

    orjson writes a float16 or float32 with as few digits as give the same number back.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind != "f" or np.isfinite(flat).all():
        return flat

    return [value if math.isfinite(value) else _name_of(value) for value in flat.tolist()]


def _flat(name: str, sizes: tuple[int, ...], data: object) -> list[Any]:
    """The values of a flat list, or of lists nested as `sizes` says."""
    if not isinstance(data, list):
        raise ServeError(
            Status.INVALID,
            f"Input {shown(name)} has the data {shown(data)}; a list of values was expected. Send "
            "a list, or binary data with its size in the parameter binary_data_size.",
        )

    values: list[Any] = data
    if values and isinstance(values[0], list):
        values = _unnested(name, sizes, values)
    if len(values) != math.prod(sizes):
        raise ServeError(
            Status.INVALID,
            f"Input {shown(name)} has {len(values)} values; the shape {list(sizes)} takes "
            f"{math.prod(sizes)}. Make the shape and the data agree.",
        )
    return values


def _unnested(name: str, sizes: tuple[int, ...], values: list[Any]) -> list[Any]:
    for depth, size in enumerate(sizes[1:], 1):
        fits = all(type(row) is list and len(row) == size for row in values)
        if not fits or len(values) != math.prod(sizes[:depth]):
            raise ServeError(
                Status.INVALID,
                f"The nested lists of input {shown(name)} do not have the shape {list(sizes)}. "
                "Nest them as the shape says, or send one flat list.",
            )
        values = list(chain.from_iterable(values))
    return values


def _check_range(name: str, datatype: object, dtype: np.dtype[Any], values: Sequence[Any]) -> None:
    """Refuses integers that the dtype cannot hold."""
    if dtype.kind not in "iu" or not values:
        return

    limits = np.iinfo(dtype)
    for value in (min(values), max(values)):
        if not limits.min <= value <= limits.max:
            raise _value_error(name, datatype, value, dtype)


def _converted(
    name: str, datatype: object, dtype: np.dtype[Any], values: Sequence[Any]
) -> NDArray[Any]:
    """The values as an array. A finite number that would become infinite is refused."""
    with np.errstate(over="raise"):
        try:
            return np.array(values, dtype)
        except (FloatingPointError, OverflowError):
            pass

    limit = float(np.finfo(dtype).max)
    outside = next(value for value in values if limit < abs(value) != math.inf)
    raise _value_error(name, datatype, outside, dtype)


def _first_of_wrong_type(values: Sequence[Any], types: frozenset[type]) -> object:
    return next(value for value in values if type(value) not in types)


def _name_of(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _value_error(name: str, datatype: object, value: object, dtype: np.dtype[Any]) -> ServeError:
    special = ', or "NaN", "Infinity" and "-Infinity"' if dtype.kind == "f" else ""
    return ServeError(
        Status.INVALID,
        f"Input {shown(name)} has the value {shown(value)}; {datatype} takes {_WORDS[dtype.kind]} "
        f"in the range of {dtype.name}{special}. Send such values.",
    )
