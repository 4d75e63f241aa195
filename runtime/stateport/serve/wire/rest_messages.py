# SPDX-License-Identifier: Apache-2.0
"""Inference requests and answers as REST has them: JSON, and the binary tensor extension.

A body is a JSON object, and the raw bytes of the tensors that say `binary_data_size`, one after
another in the order of the object. Source: Triton's docs/protocol/extension_binary_data.md in
https://github.com/triton-inference-server/server, and the Open Inference Protocol.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from numpy.typing import NDArray

from ...shown import shown
from ..errors import ServeError, Status
from ..request import Request, Response, is_unicode
from .datatypes import array_from_bytes, bytes_of, datatype_of
from .json_tensors import array_from_json, json_of
from .parameters import check_tensor, read_flag, read_parameters

_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How the client wants the outputs.

    Attributes:
        binary: whether outputs are binary that are not named below.
        by_name: whether an output is binary, for those that the request names.
    """

    binary: bool = False
    by_name: Mapping[str, bool] | None = None

    def is_binary(self, name: str) -> bool:
        """Whether this output travels as raw bytes."""
        if self.by_name is None:
            return self.binary
        return self.by_name.get(name, self.binary)


def read_request(
    model: str,
    version: str,
    body: memoryview,
    header_length: int | None,
    client: str,
    *,
    binary: bool = False,
) -> tuple[Request, AnswerForm]:
    """Reads an inference request.

    Args:
        model: the model's name, from the address.
        version: the version, from the address, or "".
        body: the whole body.
        header_length: how many bytes of it are JSON; None for all.
        client: who asks.
        binary: whether outputs travel as raw bytes where the request does not say.

    Raises:
        ServeError: the body is not a request of the protocol.
    """
    length = len(body) if header_length is None else header_length
    if not 0 < length <= len(body):
        raise ServeError(
            Status.INVALID,
            f"Inference-Header-Content-Length is {length}, and the body has {len(body)} bytes; a "
            "JSON object at the start of the body was expected. Send its length in bytes.",
        )
    document = parse_object(body[:length])

    inputs = _inputs(document, body[length:])
    parameters = _parameters(document, "the request", "")
    outputs, form = _outputs(document, parameters, binary)
    request = Request(
        model,
        inputs,
        version,
        _text(document, "id"),
        outputs,
        *read_parameters(parameters),
        client=client,
    )
    return request, form


def write_response(response: Response, form: AnswerForm) -> tuple[bytes, list[bytes]]:
    """Writes an answer.

    Returns:
        The JSON object, and the raw bytes of each binary output.
    """
    raw: list[bytes] = []
    outputs = [_output(name, array, form, raw) for name, array in response.outputs.items()]

    document: dict[str, Any] = {
        "model_name": response.model,
        "model_version": response.version,
        "outputs": outputs,
    }
    if response.id:
        document["id"] = response.id
    if response.parameters:
        document["parameters"] = dict(response.parameters)
    return orjson.dumps(document, option=_NUMPY), raw


def parse_object(text: memoryview) -> dict[str, Any]:
    """Reads a JSON object. NaN and Infinity as Python's `json` writes them are understood.

    Raises:
        ServeError: the text is not a JSON object.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        document = _with_constants(bytes(text), error)

    if not isinstance(document, dict):
        raise ServeError(
            Status.INVALID,
            f"The body is {shown(document)}; a JSON object with the key 'inputs' was expected. "
            "Send an inference request.",
        )
    return document


def _with_constants(text: bytes, problem: orjson.JSONDecodeError) -> Any:
    """Reads the text again with the parser that knows NaN and Infinity, if it has such words."""
    if b"NaN" in text or b"Infinity" in text:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass

    raise ServeError(
        Status.INVALID,
        f"The body is not JSON: {problem}. Send an inference request as a JSON object; where "
        "binary data follow it, send its length in Inference-Header-Content-Length.",
    ) from problem


def _inputs(document: Mapping[str, Any], rest: memoryview) -> dict[str, NDArray[Any]]:
    """The inputs by name. Each binary one takes its part of `rest`, and nothing may remain."""
    entries = document.get("inputs")
    if not isinstance(entries, list):
        raise ServeError(
            Status.INVALID,
            f"'inputs' is {shown(entries)}; a list of tensors was expected. Send the inputs that "
            "the model's metadata lists.",
        )

    inputs: dict[str, NDArray[Any]] = {}
    for entry in entries:
        name = _name(entry, "inputs")
        if name in inputs:
            raise ServeError(
                Status.INVALID, f"Input {shown(name)} is given twice. Send each input once."
            )
        inputs[name], rest = _input(name, entry, rest)

    if len(rest):
        raise ServeError(
            Status.INVALID,
            f"{len(rest)} bytes follow the data of all inputs. Send the size of each input's data "
            "in the parameter binary_data_size.",
        )
    return inputs


def _input(
    name: str, entry: Mapping[str, Any], rest: memoryview
) -> tuple[NDArray[Any], memoryview]:
    """One input, and the bytes that follow it."""
    datatype, shape = entry.get("datatype"), entry.get("shape")
    parameters = _parameters(entry, "input", name)
    check_tensor(name, parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        return array_from_json(name, datatype, shape, entry.get("data")), rest

    if type(size) is not int or not 0 <= size <= len(rest):
        raise ServeError(
            Status.INVALID,
            f"Input {shown(name)} has the binary_data_size {shown(size)}, and {len(rest)} bytes "
            "remain in the body. Send the data after the JSON object, and the object's length in "
            "Inference-Header-Content-Length.",
        )
    if "data" in entry:
        raise ServeError(
            Status.INVALID,
            f"Input {shown(name)} has 'data' and 'binary_data_size'. Send one of them.",
        )
    return array_from_bytes(name, datatype, shape, rest[:size]), rest[size:]


def _outputs(
    document: Mapping[str, Any], parameters: Mapping[str, Any], binary: bool
) -> tuple[tuple[str, ...], AnswerForm]:
    """The names of the outputs that are asked for, and how they travel."""
    binary = read_flag(parameters, "binary_data_output", binary)
    entries = document.get("outputs")
    if entries is None:
        return (), AnswerForm(binary)
    if not isinstance(entries, list):
        raise ServeError(
            Status.INVALID,
            f"'outputs' is {shown(entries)}; a list of objects with a 'name' was expected. Send "
            "one, or leave it out for all outputs.",
        )

    by_name: dict[str, bool] = {}
    for entry in entries:
        name = _name(entry, "outputs")
        wishes = _parameters(entry, "output", name)
        check_tensor(name, wishes)
        by_name[name] = read_flag(wishes, "binary_data", binary)
    return tuple(by_name), AnswerForm(binary, by_name)


def _output(name: str, array: NDArray[Any], form: AnswerForm, raw: list[bytes]) -> dict[str, Any]:
    """The JSON of one output. The bytes of a binary one are appended to `raw`."""
    entry: dict[str, Any] = {
        "name": name,
        "datatype": datatype_of(array.dtype),
        "shape": array.shape,
    }
    if form.is_binary(name):
        data = bytes_of(array)
        raw.append(data)
        entry["parameters"] = {"binary_data_size": len(data)}
    else:
        entry["data"] = json_of(array)
    return entry


def _name(entry: object, key: str) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    if isinstance(name, str):
        return name

    raise ServeError(
        Status.INVALID,
        f"'{key}' has the entry {shown(entry)}; an object with a 'name' was expected. Send one.",
    )


def _parameters(entry: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    """The parameters of the request, or of the tensor of this name."""
    value = entry.get("parameters")
    if value is None:
        return {}
    if isinstance(value, dict):
        return value

    owner = f"{kind} {shown(name)}" if name else kind
    raise ServeError(
        Status.INVALID,
        f"'parameters' of {owner} is {shown(value)}; a JSON object was expected. Send one, or "
        "leave it out.",
    )


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key, "")
    if isinstance(value, str) and is_unicode(value):
        return value

    raise ServeError(
        Status.INVALID,
        f"'{key}' is {shown(value)}; a text was expected. Send one, or leave it out.",
    )
