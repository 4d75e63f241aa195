# SPDX-License-Identifier: Apache-2.0
"""Requests of every transport, written by hand: what clients of other languages send."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

import stateport.serve
from stateport.serve import Application
from stateport.serve.wire import open_inference as messages

_T = TypeVar("_T")
Array = NDArray[Any]

NAMES = {"float32": "FP32", "float64": "FP64", "float16": "FP16", "bool": "BOOL"}


def chunk(steps: int = 1, seed: int = 0) -> Array:
    """An input of the reference network: float32 (1, steps, 5)."""
    return np.random.default_rng(seed).standard_normal((1, steps, 5), np.float32)


def place(sequence: int | str | None, *, start: bool = False, end: bool = False) -> dict[str, Any]:
    """The parameters of a request of a stream."""
    if sequence is None:
        return {}
    return {"sequence_id": sequence, "sequence_start": start, "sequence_end": end}


def document(x: Array, **parameters: Any) -> dict[str, Any]:
    """A request with the input as JSON values."""
    tensor = {"name": "x", "shape": [*x.shape], "datatype": "FP32", "data": x.ravel().tolist()}
    return {"inputs": [tensor], "parameters": parameters}


def binary(x: Array, **parameters: Any) -> tuple[bytes, bytes]:
    """A request with the input as raw bytes: the JSON object, and the bytes."""
    raw = x.tobytes()
    tensor = {
        "name": "x",
        "shape": [*x.shape],
        "datatype": NAMES.get(x.dtype.name, "FP32"),
        "parameters": {"binary_data_size": len(raw)},
    }
    return json.dumps({"id": "r", "inputs": [tensor], "parameters": parameters}).encode(), raw


def frame(x: Array, **parameters: Any) -> bytes:
    """A request as a frame of the WebSocket."""
    header, raw = binary(x, **parameters)
    return struct.pack("<I", len(header)) + header + raw


def unframed(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON object and the data of a frame."""
    (length,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def message(x: Array, model: str = "lstm", **parameters: Any) -> Any:
    """A request of gRPC, with the input as raw bytes."""
    request = messages.ModelInferRequest(model_name=model, id="r")
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    request.raw_input_contents.append(x.tobytes())
    for key, value in parameters.items():
        field = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(request.parameters[key], field, value)
    return request


def output(response: Any) -> Array:
    """The first output of an answer of gRPC."""
    data = response.raw_output_contents[0]
    return np.frombuffer(data, np.float32).reshape(tuple(response.outputs[0].shape))


def in_process(
    model: Path, conversation: Callable[[httpx.AsyncClient, Application], Awaitable[_T]],
    **options: Any,
) -> _T:  # fmt: skip
    """Runs a conversation with the application, without a network."""

    async def run() -> _T:
        application = stateport.serve.app({"lstm": model}, **options)
        transport = httpx.ASGITransport(application)
        await application.start()
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await conversation(client, application)
        finally:
            await application.stop(grace=0)  # a conversation may leave streams that run

    return asyncio.run(run())
