# SPDX-License-Identifier: Apache-2.0
"""The description of the REST interface, in OpenAPI 3.1.

The protocol's own description asks for a version in every address, refuses binary bodies, and has
no sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from .. import __version__
from .wire.datatypes import DTYPES

_ERRORS: Final = {
    "400": "The request is not valid; the text says why.",
    "401": "A token is asked for.",
    "404": "There is no such model or version.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "429": "The server or this client has too much to do; Retry-After says when to come back.",
    "500": "The engine or the server failed.",
    "501": "The request asks for what this server does not have.",
    "503": "The server is stopping, or its store cannot be reached.",
}
_PROBE_ERRORS: Final = ("404",)
_READ_ERRORS: Final = ("401", "404")
_ID: Final = {
    "description": "The stream's id.",
    "oneOf": [
        {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
        {"type": "string", "maxLength": 256},
    ],
}


def description(models: Sequence[str], root: str = "") -> dict[str, Any]:
    """The OpenAPI document.

    Args:
        models: the names of the models that are served.
        root: the path at which the application is mounted.
    """
    paths: dict[str, Any] = {
        "/v2": _get("server", "The server's metadata.", "ServerMetadata", _READ_ERRORS),
        "/v2/health/live": _probe("live", "Whether the server runs.", ()),
        "/v2/health/ready": _probe("ready", "Whether every model takes new streams.", ()),
        "/v2/models/stats": _get("stats", "What was counted.", "Statistics", _READ_ERRORS),
        "/metrics": {"get": _metrics()},
    }
    for suffix, name in (("", ""), ("/versions/{version}", "_version")):
        path = "/v2/models/{model}" + suffix
        parameters = _parameters(models, has_version=bool(suffix))
        operations = {
            "": _get(f"model{name}", "A model's metadata.", "ModelMetadata", _READ_ERRORS),
            "/config": _get(f"config{name}", "Its configuration.", "Object", _READ_ERRORS),
            "/stats": _get(f"model_stats{name}", "Its statistics.", "Statistics", _READ_ERRORS),
            "/ready": _probe(f"model_ready{name}", "Whether it takes new streams.", _PROBE_ERRORS),
            "/infer": {"post": _infer(f"infer{name}")},
        }
        for end, operation in operations.items():
            paths[path + end] = {"parameters": parameters, **operation}

    return {
        "openapi": "3.1.0",
        "info": {
            "title": "stateport",
            "version": __version__,
            "description": "Streams of recurrent networks over the open inference protocol (v2).",
        },
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _parameters(models: Sequence[str], *, has_version: bool) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": "model", "in": "path", "required": True,
         "schema": {"type": "string", "enum": list(models)}},
    ]  # fmt: skip
    if has_version:
        version = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
        parameters.append(version)
    return parameters


def _get(name: str, words: str, schema: str, errors: Sequence[str]) -> dict[str, Any]:
    return {
        "get": {
            "operationId": name,
            "summary": words,
            "responses": {"200": _json_answer("It is here.", schema), **_error_answers(errors)},
        }
    }


def _probe(name: str, words: str, errors: Sequence[str]) -> dict[str, Any]:
    responses = {
        "200": _json_answer("Yes.", "Probe"),
        "503": _json_answer("No.", "Probe"),
        **_error_answers(errors),
    }
    return {
        "get": {"operationId": name, "summary": words, "responses": responses, "security": [{}]}
    }


def _metrics() -> dict[str, Any]:
    page = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "operationId": "metrics",
        "summary": "Metrics for Prometheus.",
        "responses": {
            "200": {"description": "The metrics.", "content": page},
            **_error_answers(("401",)),
        },
    }


def _infer(name: str) -> dict[str, Any]:
    length = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "How many bytes at the start of the body are JSON, if data follow them.",
        "schema": {"type": "integer", "minimum": 1},
    }
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "operationId": name,
        "summary": "One call: the next chunk of a stream, or a call without a stream.",
        "parameters": [length],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref("InferRequest")},
                "application/octet-stream": binary,
            },
        },
        "responses": {
            "200": {
                "description": "The outputs.",
                "content": {
                    "application/json": {"schema": _ref("InferResponse")},
                    "application/octet-stream": binary,
                },
            },
            **_error_answers(tuple(_ERRORS)),
        },
    }


def _error_answers(statuses: Sequence[str]) -> dict[str, Any]:
    return {status: _json_answer(_ERRORS[status], "Error") for status in statuses}


def _json_answer(words: str, schema: str) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": _ref(schema)}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Sequence[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def _list_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


def _schemas() -> dict[str, Any]:
    text = {"type": "string"}
    whole = {"type": "integer"}
    shape = _list_of({"type": "integer", "minimum": 0})
    datatype = {"type": "string", "enum": list(DTYPES)}
    data = {
        "description": "The values in one flat list, row by row, or nested as the shape. NaN and "
        'the infinities are "NaN", "Infinity" and "-Infinity".',
        "type": "array",
    }
    size = {"type": "integer", "minimum": 0}
    metadata = _object(
        ("name", "datatype", "shape"), name=text, datatype=datatype, shape=_list_of(whole)
    )
    sized = _object((), binary_data_size=size)
    input_tensor = _object(
        ("name", "shape", "datatype"), name=text, shape=shape, datatype=datatype, data=data,
        parameters=sized,
    )  # fmt: skip
    requested_output = _object(
        ("name",), name=text, parameters=_object((), binary_data={"type": "boolean"})
    )
    return {
        "Error": _object(("error",), error=text),
        "Object": {"type": "object"},
        "Probe": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "ServerMetadata": _object(
            ("name", "version", "extensions"), name=text, version=text, extensions=_list_of(text)
        ),
        "ModelMetadata": _object(
            ("name", "versions", "platform", "inputs", "outputs"), name=text,
            versions=_list_of(text), platform=text, inputs=_list_of(metadata),
            outputs=_list_of(metadata),
        ),
        "Statistics": _object(("model_stats",), model_stats=_list_of({"type": "object"})),
        "InferRequest": _object(
            ("inputs",), id=text, inputs=_list_of(input_tensor), outputs=_list_of(requested_output),
            parameters=_request_parameters(),
        ),
        "InferResponse": _object(
            ("model_name", "model_version", "outputs"), model_name=text, model_version=text,
            id=text, parameters={"type": "object"},
            outputs=_list_of(
                _object(
                    ("name", "shape", "datatype"), name=text, shape=shape, datatype=datatype,
                    data=data, parameters=sized,
                )
            ),
        ),
    }  # fmt: skip


def _request_parameters() -> dict[str, Any]:
    flag = {"type": "boolean"}
    return _object(
        (),
        sequence_id=_ID,
        sequence_start={**flag, "description": "Begins the stream, from the first state."},
        sequence_end={**flag, "description": "Ends the stream after this request."},
        sequence_step={
            "type": "integer",
            "minimum": 1,
            "maximum": 2**63 - 1,
            "description": "The number of this step in its stream, from 1.",
        },
        binary_data_output={**flag, "description": "All outputs as raw bytes after the JSON."},
    )
