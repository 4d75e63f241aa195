# SPDX-License-Identifier: Apache-2.0
"""Every case of the protocol that is tried on Triton and on `stateport serve`.

A case is some requests, sent one after the other; the last answer is the one that counts. The
model is an LSTM with one input x, float32 [batch, time, 5].
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

#: Two steps of time.
CHUNK: Final = [[[0.5, -1.0, 0.25, 2.0, -0.75], [1.0, 0.5, -0.5, 0.125, -2.0]]]
X: Final = {"name": "x", "datatype": "FP32", "shape": [1, 2, 5], "data": CHUNK}
_JSON: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Ask:
    """One request over REST."""

    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"


@dataclass(frozen=True)
class Case:
    """What is tried.

    Attributes:
        name: what it is, in words.
        requests: what is sent over REST, in this order.
        why: why the answers differ, where they do.
        pause: seconds before the last request.
    """

    name: str
    requests: tuple[Ask, ...]
    why: str = ""
    pause: float = 0


def infer(
    parameters: Mapping[str, Any] | None = None,
    inputs: Any = (X,),
    *,
    model: str = "lstm",
    version: str = "",
    **more: Any,
) -> Ask:
    """An inference request in JSON."""
    document = {"inputs": [*inputs] if isinstance(inputs, tuple) else inputs, **more}
    if parameters is not None:
        document["parameters"] = parameters
    return Ask(_path(model, version), json.dumps(document).encode(), _JSON)


def of(sequence: Any, *, start: Any = False, end: Any = False, **more: Any) -> dict[str, Any]:
    """The parameters of a request of a sequence."""
    return {"sequence_id": sequence, "sequence_start": start, "sequence_end": end, **more}


def tensor(**changes: Any) -> dict[str, Any]:
    """The input x with changes; None leaves a key out."""
    return {key: value for key, value in (X | changes).items() if value is not None}


def _path(model: str = "lstm", version: str = "") -> str:
    return f"/v2/models/{model}{f'/versions/{version}' if version else ''}/infer"


def _case(name: str, *requests: Ask, why: str = "", pause: float = 0) -> Case:
    return Case(name, requests, why, pause)


def _one(name: str, inputs: Any = (X,), why: str = "", **more: Any) -> Case:
    """A request that starts and ends a sequence."""
    return _case(name, infer(of(900, start=True, end=True), inputs, **more), why=why)


def _id(name: str, sequence: Any, why: str = "") -> Case:
    return _case(name, infer(of(sequence, start=True, end=True)), why=why)


_EMPTY_STATE: Final = {"datatype": "FP32", "shape": [1, 1, 10], "data": [0.0] * 10}
_STATES: Final = ({"name": "h0"} | _EMPTY_STATE, {"name": "c0"} | _EMPTY_STATE)
_OURS: Final = "An addition of stateport's."
_STATELESS: Final = (
    "Triton takes sequences alone here; in stateport a request with states and without an id is a "
    "call without a stream."
)

SEQUENCES: Final = [
    _case("start", infer(of(1, start=True))),
    _case("go on", infer(of(1))),
    _case("end", infer(of(1, end=True))),
    _case("go on after the end", infer(of(1))),
    _case("go on with what never started", infer(of(99))),
    _case("end of what never started", infer(of(98, end=True))),
    _case("start and end in one request", infer(of(2, start=True, end=True))),
    _case("go on after start and end in one", infer(of(2))),
    _case(
        "start of a sequence that runs",
        infer(of(3, start=True)),
        infer(of(3)),
        infer(of(3, start=True)),
    ),
    _case("go on after that", infer(of(3, end=True))),
    _case(
        "go on after the time of idleness",
        infer(of(4, start=True), model="brief"),
        infer(of(4), model="brief"),
        pause=4,
    ),
    _case("no parameters", infer()),
    _case("no id, but a start", infer({"sequence_start": True})),
    _id("id 0", 0),
    _id('id ""', ""),
    _id('id "seven"', "seven"),
    _case(
        'id "7" after the start of id 7',
        infer(of(7, start=True)),
        infer(of("7", end=True)),
    ),
    _id("id -1", -1),
    _id("id 2**63", 2**63),
    _id("id 2**64 - 1", 2**64 - 1),
    _id("id 2**64", 2**64),
    _id("id 1.5", 1.5),
    _id("id true", True),
    _id("id null", None),
    _id("id [1]", [1]),
    _id(
        "id of 1,000 characters",
        "a" * 1000,
        "Triton takes 128 characters, stateport 256. The fault is the client's.",
    ),
    _case("start is 1", infer(of(5, start=1, end=True))),
    _case('start is "true"', infer(of(5, start="true", end=True))),
    _case(
        "a batch of two",
        infer(of(6, start=True, end=True), (tensor(shape=[2, 2, 5], data=CHUNK * 2),)),
    ),
    _case("an unknown parameter", infer(of(8, start=True, end=True, colour="red"))),
    _case(
        "step 2 twice (`sequence_step`)",
        infer(of(9, start=True, sequence_step=1)),
        infer(of(9, sequence_step=2)),
        infer(of(9, sequence_step=2)),
        why="An addition of stateport's. The repeated step is answered from the record. Triton "
        "ignores the parameter, and steps again.",
    ),
    _case("step 5 after step 2", infer(of(9, sequence_step=5)), why=_OURS),
]

TENSORS: Final = [
    _one("no inputs", ()),
    _one("`inputs` is no list", {"x": 1}),
    _one("another name", (tensor(name="z"),)),
    _one("x twice", (X, X)),
    _one("an additional input", (X, tensor(name="z"))),
    _one("FP64 for FP32", (tensor(datatype="FP64"),)),
    _one("INT64 for FP32", (tensor(datatype="INT64", data=[1] * 10),)),
    _one("an unknown datatype", (tensor(datatype="FLOAT"),)),
    _one("no datatype", (tensor(datatype=None),)),
    _one("no shape", (tensor(shape=None),)),
    _one("no data", (tensor(data=None),)),
    _one("one axis too few", (tensor(shape=[2, 5]),)),
    _one("6 features in place of 5", (tensor(shape=[1, 2, 6], data=[0.0] * 12),)),
    _one("a chunk of no steps", (tensor(shape=[1, 0, 5], data=[]),)),
    _one("a negative size", (tensor(shape=[1, -2, 5]),)),
    _one(
        "a size of 2**62",
        (tensor(shape=[1, 2**62, 5]),),
        why="A fault of this version of Triton: one request ends the whole server.",
    ),
    _one("9 numbers for 10", (tensor(data=[0.0] * 9),)),
    _one("11 numbers for 10", (tensor(data=[0.0] * 11),)),
    _one(
        "a flat list of numbers", (tensor(data=[0.5, -1, 0.25, 2, -0.75, 1, 0.5, -0.5, 0.125, -2]),)
    ),
    _one("integers for floats", (tensor(data=[0] * 10),)),
    _one("a text among the numbers", (tensor(data=[0.0] * 9 + ["0"]),)),
    _one("null among the numbers", (tensor(data=[0.0] * 9 + [None]),)),
    _one(
        "1e39, which float32 has not",
        (tensor(data=[0.0] * 9 + [1e39]),),
        why="Triton makes it infinity. Nothing is replaced silently in stateport.",
    ),
    _one("NaN", (tensor(data=[0.0] * 9 + [float("nan")]),)),
    _one("an unknown output", outputs=[{"name": "w"}]),
    _one("a state as an input of a sequence", (X, *_STATES)),
    _case(
        "states as inputs, without a sequence",
        infer(None, (X, *_STATES)),
        why=_STATELESS,
    ),
]

_ONE: Final = of(901, start=True, end=True)
_HEADER: Final = json.dumps(
    {
        "inputs": [tensor(data=None, parameters={"binary_data_size": 40})],
        "parameters": _ONE,
    }
).encode()


def _binary(name: str, body: bytes, length: object, why: str = "") -> Case:
    headers = {"Inference-Header-Content-Length": str(length)}
    return _case(name, Ask(_path(), body, headers), why=why)


BODIES: Final = [
    _case("an empty body", Ask(_path())),
    _case("a body that is no JSON", Ask(_path(), b"hello", _JSON)),
    _case("JSON that ends early", Ask(_path(), b'{"inputs": [', _JSON)),
    _case("a JSON list", Ask(_path(), b"[]", _JSON)),
    _case("bytes that are no UTF-8", Ask(_path(), b'{"inputs": "\xff"}', _JSON)),
    _binary("binary data", _HEADER + bytes(40), len(_HEADER)),
    _binary("binary data, 4 bytes short", _HEADER + bytes(36), len(_HEADER)),
    _binary("binary data, 4 bytes more", _HEADER + bytes(44), len(_HEADER)),
    _binary("the length of a header longer than the body", _HEADER + bytes(40), 10_000),
    _binary("the length of a header cut off", _HEADER + bytes(40), len(_HEADER) - 5),
    _binary("a negative length of the header", _HEADER + bytes(40), -1),
    _binary("a length of the header that is no number", _HEADER + bytes(40), "ten"),
    _case(
        "an unknown compression",
        Ask(_path(), infer(_ONE).body, _JSON | {"Content-Encoding": "x"}),
        why="The fault is the client's.",
    ),
    _case(
        "gzip that is none", Ask(_path(), infer(_ONE).body, _JSON | {"Content-Encoding": "gzip"})
    ),
]

_READY: Final = "The protocol has 404 for what is not there."
_REPOSITORY: Final = "stateport's models are those that the command names."
_SHARED: Final = "stateport takes no shared memory."

ADDRESSES: Final = [
    _case("an unknown model", infer(_ONE, model="other")),
    _case("version 1", infer(_ONE, version="1")),
    _case("version 7", infer(_ONE, version="7")),
    _case('version "first"', infer(_ONE, version="first")),
    _case("GET of infer", Ask(_path(), method="GET")),
    _case("an unknown address", Ask("/v2/other", method="GET")),
    _case("the server", Ask("/v2", method="GET")),
    _case("alive", Ask("/v2/health/live", method="GET")),
    _case("ready", Ask("/v2/health/ready", method="GET")),
    _case("the model", Ask("/v2/models/lstm", method="GET")),
    _case("the model is ready", Ask("/v2/models/lstm/ready", method="GET")),
    _case("an unknown model is ready", Ask("/v2/models/other/ready", method="GET"), why=_READY),
    _case("the model's configuration", Ask("/v2/models/lstm/config", method="GET")),
    _case("the model's statistics", Ask("/v2/models/lstm/stats", method="GET")),
    _case("the repository", Ask("/v2/repository/index", b"{}", _JSON), why=_REPOSITORY),
    _case("shared memory", Ask("/v2/systemsharedmemory/status", method="GET"), why=_SHARED),
]

TABLES: Final = {
    "Sequences": SEQUENCES,
    "Tensors": TENSORS,
    "Bodies": BODIES,
    "Addresses": ADDRESSES,
}

#: Why answers over gRPC differ, by the case's name.
GRPC_NOTES: Final = {
    "the same with `triton_grpc_error: true`": "This version of Triton does not know the header.",
    "an id as uint64": "Clients in other languages send it.",
    "id -1": "Triton takes it for 2**64 - 1.",
    "RepositoryIndex": _REPOSITORY,
    "SystemSharedMemoryStatus": _SHARED,
    "LogSettings": "stateport's options are set at the start.",
    "TraceSetting": "stateport's options are set at the start.",
}
