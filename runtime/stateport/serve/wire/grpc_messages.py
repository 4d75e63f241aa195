# SPDX-License-Identifier: Apache-2.0
"""Inference requests and answers as messages of gRPC."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...shown import shown
from ..errors import ServeError, Status
from ..request import Request, Response
from .datatypes import array_from_bytes, bytes_of, check_shape, datatype_of, dtype_of
from .parameters import check_tensor, read_parameters

#: The datatype -> the field of `InferTensorContents` that has its values. FP16 has none.
_FIELDS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def read_request(message: Any, client: str) -> Request:
    """Reads a `ModelInferRequest`.

    Raises:
        ServeError: the message is not a request of the protocol.
    """
    inputs = _raw_inputs(message) if message.raw_input_contents else _typed_inputs(message)
    for output in message.outputs:
        check_tensor(output.name, output.parameters)

    return Request(
        message.model_name,
        inputs,
        message.model_version,
        message.id,
        tuple([output.name for output in message.outputs]),
        *read_parameters(_values(message.parameters)),
        client=client,
    )


def write_response(response: Response, message: Any) -> None:
    """Writes the answer into a `ModelInferResponse`, with the outputs as raw bytes."""
    message.model_name = response.model
    message.model_version = response.version
    message.id = response.id
    for key, value in response.parameters.items():
        setattr(message.parameters[key], _field_of(value), value)

    for name, array in response.outputs.items():
        message.outputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        message.raw_output_contents.append(bytes_of(array))


def _raw_inputs(message: Any) -> dict[str, NDArray[Any]]:
    if len(message.raw_input_contents) != len(message.inputs):
        raise ServeError(
            Status.INVALID,
            f"raw_input_contents has {len(message.raw_input_contents)} entries for "
            f"{len(message.inputs)} inputs. Send one entry for each input, in their order.",
        )

    inputs: dict[str, NDArray[Any]] = {}
    for tensor, data in zip(message.inputs, message.raw_input_contents, strict=True):
        _check_tensor(tensor, inputs)
        if tensor.HasField("contents"):
            raise ServeError(
                Status.INVALID,
                f"Input {shown(tensor.name)} has contents, and the request has "
                "raw_input_contents. Send one of them.",
            )
        inputs[tensor.name] = array_from_bytes(
            tensor.name, tensor.datatype, tuple(tensor.shape), data
        )
    return inputs


def _typed_inputs(message: Any) -> dict[str, NDArray[Any]]:
    inputs: dict[str, NDArray[Any]] = {}
    for tensor in message.inputs:
        _check_tensor(tensor, inputs)
        inputs[tensor.name] = _typed(tensor)
    return inputs


def _check_tensor(tensor: Any, inputs: Mapping[str, object]) -> None:
    check_tensor(tensor.name, tensor.parameters)
    if tensor.name in inputs:
        raise ServeError(
            Status.INVALID, f"Input {shown(tensor.name)} is given twice. Send each input once."
        )


def _typed(tensor: Any) -> NDArray[Any]:
    """The array of an input whose values are in `contents`."""
    dtype = dtype_of(tensor.name, tensor.datatype)
    shape = check_shape(tensor.name, tuple(tensor.shape))
    field = _FIELDS.get(tensor.datatype)
    if field is None:
        raise ServeError(
            Status.INVALID,
            f"Input {shown(tensor.name)} is {tensor.datatype}, for which `contents` has no field. "
            "Send its bytes in raw_input_contents.",
        )

    values = np.array(getattr(tensor.contents, field), _wide(dtype))
    expected = math.prod(shape)
    if values.size != expected:
        raise ServeError(
            Status.INVALID,
            f"Input {shown(tensor.name)} has {values.size} values in {field}; the shape "
            f"{list(shape)} takes {expected}. Send its values there.",
        )
    return _narrowed(tensor, values, dtype).reshape(shape)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the field, which has 32 bits or 64 for integers."""
    if dtype.kind in "iu" and dtype.itemsize < 4:
        return np.dtype(f"{dtype.kind}4")
    return dtype


def _narrowed(tensor: Any, values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    narrow = values.astype(dtype, copy=False)
    if dtype.kind in "iu" and not np.array_equal(narrow, values):
        outside = values[narrow != values][0]
        raise ServeError(
            Status.INVALID,
            f"Input {shown(tensor.name)} has the value {outside}; {tensor.datatype} takes whole "
            f"numbers in the range of {dtype.name}. Send such values.",
        )
    return narrow


def _values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as Python's values. One without a value is left out."""
    if not parameters:
        return {}

    values = {}
    for key, parameter in parameters.items():
        field = parameter.WhichOneof("parameter_choice")
        if field is not None:
            values[key] = getattr(parameter, field)
    return values


def _field_of(value: bool | int | str) -> str:
    """The field of `InferParameter` for a value."""
    if isinstance(value, bool):
        return "bool_param"
    if isinstance(value, str):
        return "string_param"
    return "int64_param" if value < 2**63 else "uint64_param"
