# SPDX-License-Identifier: Apache-2.0
"""The protocol's names of dtypes, and arrays from raw bytes.

Source: "Tensor Data Types" of the Open Inference Protocol,
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...axes import SIZE_LIMIT
from ...files.reading import MOST_DIMENSIONS
from ...shown import shown
from ..errors import ServeError, Status

#: The protocol's name -> the dtype, in the byte order of the wire.
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
#: Both NumPy's names and its dtypes, because it takes long to put a name together.
_NAMES: Final[dict[str | np.dtype[Any], str]] = {
    **{dtype.name: name for name, dtype in DTYPES.items()},
    **{dtype.newbyteorder("="): name for name, dtype in DTYPES.items()},
}
#: Names of the protocol that no model of stateport has.
_NOT_SERVED: Final = {
    "BF16": "no contract of stateport has bfloat16. Send FP32, or the dtype of the metadata.",
    "BYTES": "no network of stateport takes strings. Send the dtype of the metadata.",
}


def datatype_of(dtype: str | np.dtype[Any]) -> str:
    """The protocol's name of a dtype, or of NumPy's name of one: "float32" -> "FP32"."""
    return _NAMES[dtype]


def dtype_of(name: str, datatype: object) -> np.dtype[Any]:
    """The dtype of the input `name`, from the protocol's name.

    Raises:
        ServeError: the protocol has no such dtype, or stateport does not serve it.
    """
    if isinstance(datatype, str):
        dtype = DTYPES.get(datatype)
        if dtype is not None:
            return dtype
        if datatype in _NOT_SERVED:
            raise ServeError(
                Status.INVALID,
                f"Input {shown(name)} has the datatype {datatype}; {_NOT_SERVED[datatype]}",
            )

    raise ServeError(
        Status.INVALID,
        f"Input {shown(name)} has the datatype {shown(datatype)}; one of {', '.join(DTYPES)} was "
        "expected. Send the datatype of the model's metadata.",
    )


def check_shape(name: str, shape: object) -> tuple[int, ...]:
    """The shape of the input `name` as a tuple.

    Raises:
        ServeError: it is not a sequence of sizes, or an array of that size is impossible.
    """
    if not isinstance(shape, Sequence) or isinstance(shape, str | bytes):
        raise _shape_error(name, shape)

    for size in shape:
        if type(size) is not int or not 0 <= size < SIZE_LIMIT:
            raise _shape_error(name, shape)
    if len(shape) > MOST_DIMENSIONS or math.prod(shape) >= SIZE_LIMIT:
        raise _shape_error(name, shape)
    return tuple(shape)


def array_from_bytes(
    name: str, datatype: object, shape: object, data: bytes | memoryview
) -> NDArray[Any]:
    """An array from its raw bytes: little-endian, row by row, without padding.

    The array is a view of `data` where the memory is aligned, and otherwise a copy.

    Raises:
        ServeError: the dtype, the shape or the number of bytes is wrong.
    """
    dtype = dtype_of(name, datatype)
    sizes = check_shape(name, shape)
    expected = math.prod(sizes) * dtype.itemsize
    if len(data) != expected:
        raise ServeError(
            Status.INVALID,
            f"Input {shown(name)} has {len(data)} bytes of data; {datatype} of the shape "
            f"{list(sizes)} takes {expected}. Make the shape and the data agree.",
        )

    array = np.frombuffer(data, dtype).reshape(sizes)
    if dtype.kind == "b":
        _check_booleans(name, array)
    return array if array.flags.aligned else array.copy()


def bytes_of(array: NDArray[Any]) -> bytes:
    """The raw bytes of an array, in the order and byte order of the wire."""
    if sys.byteorder == "big":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.tobytes()


def _check_booleans(name: str, array: NDArray[Any]) -> None:
    """Refuses bytes that are neither 0 nor 1, which NumPy would keep as a third value."""
    if array.size and array.view(np.uint8).max() > 1:
        raise ServeError(
            Status.INVALID,
            f"Input {shown(name)} has a byte that is neither 0 nor 1; BOOL takes one byte of 0 or "
            "1 for each value. Send such bytes.",
        )


def _shape_error(name: str, shape: object) -> ServeError:
    return ServeError(
        Status.INVALID,
        f"Input {shown(name)} has the shape {shown(shape)}; a list of at most {MOST_DIMENSIONS} "
        f"sizes was expected, each 0 or more, and together less than {SIZE_LIMIT} values. Send "
        "the shape of the data.",
    )
