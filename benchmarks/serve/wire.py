# SPDX-License-Identifier: Apache-2.0
"""Requests as bytes, made before the load begins."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from tritonclient.grpc import service_pb2

START: Final = 0
STEP: Final = 1
END: Final = 2
KINDS: Final = (START, STEP, END)


@dataclass(frozen=True)
class Target:
    """What is talked to.

    Attributes:
        transport: a key of `TALKERS`.
        address: host and port.
        input_size: the features of the network.
        model: the model's name.
    """

    transport: str
    address: str
    input_size: int
    model: str = "lstm"

    def chunk(self, number: int) -> np.ndarray[Any, Any]:
        """One step of one stream, (1, 1, input)."""
        random = np.random.default_rng(number)
        return random.standard_normal((1, 1, self.input_size), np.float32)

    def is_json(self) -> bool:
        """Whether numbers travel as text."""
        return self.transport.endswith("JSON")


def plain_request(target: Target, number: int, kind: int) -> bytes:
    """A request to a handler written by hand: POST or DELETE /streams/NUMBER."""
    path = f"/streams/{number}"
    if kind == END:
        return _http("DELETE", path, target, b"", {})
    chunk = target.chunk(number)
    body = json.dumps({"x": chunk.tolist()}).encode() if target.is_json() else chunk.tobytes()
    return _http("POST", path, target, body, {"Content-Type": _content_type(target)})


def predict_request(target: Target, number: int, kind: int) -> bytes:
    """A request to LitServe: POST /predict with the stream in the body."""
    document = {"stream": number, "end": kind == END, "x": target.chunk(number).tolist()}
    headers = {"Content-Type": "application/json"}
    return _http("POST", "/predict", target, json.dumps(document).encode(), headers)


def rest_request(target: Target, number: int, kind: int) -> bytes:
    """A request of the open inference protocol over REST."""
    header, data = _rest_body(target, number, kind, binary=not target.is_json())
    headers = {"Content-Type": _content_type(target)}
    if data:
        headers["Inference-Header-Content-Length"] = str(len(header))
    return _http("POST", f"/v2/models/{target.model}/infer", target, header + data, headers)


def frame(target: Target, number: int, kind: int) -> bytes:
    """A frame of the WebSocket."""
    header, data = _rest_body(target, number, kind, binary=True)
    return struct.pack("<I", len(header)) + header + data


def message(target: Target, number: int, kind: int) -> bytes:
    """A message of gRPC."""
    chunk = target.chunk(number)
    request = service_pb2.ModelInferRequest(model_name=target.model, id=str(number))
    request.inputs.add(name="x", datatype="FP32", shape=chunk.shape)
    request.raw_input_contents.append(chunk.tobytes())
    request.parameters["sequence_id"].int64_param = number + 1
    request.parameters["sequence_start"].bool_param = kind == START
    request.parameters["sequence_end"].bool_param = kind == END
    encoded: bytes = request.SerializeToString()
    return encoded


def _rest_body(target: Target, number: int, kind: int, binary: bool) -> tuple[bytes, bytes]:
    chunk = target.chunk(number)
    tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": chunk.shape}
    document: dict[str, Any] = {"inputs": [tensor]}
    if binary:
        tensor["parameters"] = {"binary_data_size": chunk.nbytes}
        document["outputs"] = [{"name": "y", "parameters": {"binary_data": True}}]
    else:
        tensor["data"] = chunk.tolist()
    flags = {"sequence_start": kind == START, "sequence_end": kind == END}
    document["parameters"] = {"sequence_id": number + 1, **flags}
    return json.dumps(document).encode(), chunk.tobytes() if binary else b""


def _content_type(target: Target) -> str:
    return "application/json" if target.is_json() else "application/octet-stream"


def _http(method: str, path: str, target: Target, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {target.address}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body
