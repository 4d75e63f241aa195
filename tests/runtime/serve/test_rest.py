# SPDX-License-Identifier: Apache-2.0
"""REST: every address, both forms of tensors, and how requests are refused."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import stateport
import stateport.serve
from stateport.serve import Application
from tests.runtime.serve.asking import binary, chunk, document, in_process, place

INFER = "/v2/models/lstm/infer"
LENGTH = "Inference-Header-Content-Length"


def test_every_address_answers(reference: Path) -> None:
    async def conversation(client: httpx.AsyncClient, application: Application) -> None:
        server = (await client.get("/v2")).json()
        assert server["name"] == "stateport"
        assert {"binary_tensor_data", "sequence", "statistics"} <= set(server["extensions"])

        assert (await client.get("/v2/health/live")).json() == {"live": True}
        assert (await client.get("/v2/health/ready")).json() == {"ready": True}
        for root in ("/v2/models/lstm", "/v2/models/lstm/versions/1"):
            model = (await client.get(root)).json()
            assert model["versions"] == ["1"]
            assert [tensor["name"] for tensor in model["inputs"]] == ["x", "h0", "c0"]
            assert [tensor["name"] for tensor in model["outputs"]] == ["y", "hn", "cn"]
            assert model["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, -1, 5]}

            config = (await client.get(f"{root}/config")).json()
            assert [s["input_name"] for s in config["sequence_batching"]["state"]] == ["h0", "c0"]
            statistics = (await client.get(f"{root}/stats")).json()
            assert statistics["model_stats"][0]["name"] == "lstm"
            assert (await client.get(f"{root}/ready")).status_code == 200
        assert (await client.get("/v2/models/stats")).json()["model_stats"]

        description = (await client.get("/openapi.json")).json()
        assert description["openapi"].startswith("3.1")
        assert "/v2/models/{model}/infer" in description["paths"]

    in_process(reference, conversation)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("GET", "/v2/models/other/stats", 404),
        ("GET", "/v2/models/other/config", 404),
        ("GET", "/v2/models/lstm/versions/2", 404),
        ("GET", "/v2/models/lstm/versions/2/ready", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/lstm/versions/2/infer", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
    ],
)
def test_an_address_that_there_is_not(reference: Path, method: str, path: str, status: int) -> None:
    async def conversation(client: httpx.AsyncClient, application: Application) -> None:
        body = document(chunk(), **place(1, start=True)) if method == "POST" else None
        answer = await client.request(method, path, json=body)
        assert answer.status_code == status
        assert answer.json()["error"].endswith((".", "yet"))

    in_process(reference, conversation)


def test_streams_in_both_forms_are_those_of_a_stream(reference: Path) -> None:
    chunks = [chunk(steps, seed) for seed, steps in enumerate((1, 3, 2))]
    stream = stateport.load(reference).stream()
    expected = [stream(x) for x in chunks]

    async def conversation(client: httpx.AsyncClient, application: Application) -> None:
        for number, x in enumerate(chunks):
            at = {"start": number == 0, "end": number == 2}
            answer = (await client.post(INFER, json=document(x, **place("a", **at)))).json()
            assert answer["outputs"][0]["datatype"] == "FP32"
            y = np.array(answer["outputs"][0]["data"], np.float32)
            assert np.array_equal(y.reshape(answer["outputs"][0]["shape"]), expected[number])

            header, raw = binary(x, binary_data_output=True, **place(2, **at))
            headers = {LENGTH: str(len(header))}
            binary_answer = await client.post(INFER, content=header + raw, headers=headers)
            length = int(binary_answer.headers[LENGTH])
            described = json.loads(binary_answer.content[:length])
            assert described["id"] == "r"
            data = binary_answer.content[length:]
            assert described["outputs"][0]["parameters"] == {"binary_data_size": len(data)}
            assert data == expected[number].tobytes()
        assert application.service.live_streams == 0

    in_process(reference, conversation)


def test_a_call_without_a_stream_has_its_state(reference: Path) -> None:
    model = stateport.load(reference)
    x = chunk(2)
    y, state = model(x)
    y_next, _ = model(x, state)

    async def conversation(client: httpx.AsyncClient, application: Application) -> None:
        body = document(x)
        for name in ("h0", "c0"):
            values = {"name": name, "shape": [1, 1, 10], "datatype": "FP32", "data": [0.0] * 10}
            body["inputs"].append(values)
        first = (await client.post(INFER, json=body)).json()
        outputs = {tensor["name"]: tensor for tensor in first["outputs"]}
        assert np.array_equal(np.array(outputs["y"]["data"], np.float32), y.ravel())

        for tensor, name in zip(body["inputs"][1:], ("hn", "cn"), strict=True):
            tensor["data"] = outputs[name]["data"]
        body["outputs"] = [{"name": "y", "parameters": {"binary_data": True}}]
        second = await client.post(INFER, json=body)
        assert second.content[int(second.headers[LENGTH]) :] == y_next.tobytes()

    in_process(reference, conversation)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body, wbits=-15)),
        ("identity", bytes),
    ],
)
def test_a_packed_body_is_unpacked(
    reference: Path, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    async def conversation(client: httpx.AsyncClient, application: Application) -> None:
        body = json.dumps(document(chunk(), **place(1, start=True))).encode()
        headers = {"Content-Encoding": encoding}
        answer = await client.post(INFER, content=pack(body), headers=headers)
        assert answer.status_code == 200

    in_process(reference, conversation)


@pytest.mark.parametrize(
    "address",
    [
        "/v2/repository/index",
        "/v2/repository/models/lstm/load",
        "/v2/systemsharedmemory/status",
        "/v2/cudasharedmemory/region/r/register",
        "/v2/trace/setting",
        "/v2/logging",
    ],
)
def test_what_the_server_does_not_have_is_refused_in_words(reference: Path, address: str) -> None:
    async def conversation(client: httpx.AsyncClient, _: Application) -> None:
        for method in ("GET", "POST"):
            answer = await client.request(method, address)
            assert answer.status_code == 501
            assert f"{address}: this server has no" in answer.json()["error"]

    in_process(reference, conversation)


GOOD = document(chunk(), **place(1, start=True))
BINARY, RAW = binary(chunk(), **place(1, start=True))


def changed(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def tensor(**changes: Any) -> bytes:
    return changed(inputs=[{**GOOD["inputs"][0], **changes}])


WRONG: list[tuple[bytes, dict[str, str], int, str]] = [
    (b"", {}, 400, "a JSON object at the start"),
    (b"{", {}, 400, "not JSON"),
    (b"\xff\xfe", {}, 400, "not JSON"),
    (b"[" * 100_000, {}, 400, "not JSON"),
    (b"[NaN" * 100_000, {}, 400, "not JSON"),
    (b"[]", {}, 400, "a JSON object with"),
    (b"{}", {}, 400, "'inputs'"),
    (changed(inputs={}), {}, 400, "'inputs'"),
    (changed(inputs=[1]), {}, 400, "'inputs'"),
    (changed(inputs=GOOD["inputs"] * 2), {}, 400, "twice"),
    (changed(inputs=[]), {}, 400, "x"),
    (changed(id=3), {}, 400, "'id'"),
    (changed(parameters=[]), {}, 400, "'parameters'"),
    (changed(outputs="y"), {}, 400, "'outputs'"),
    (changed(outputs=[{}]), {}, 400, "'outputs'"),
    (changed(outputs=[{"name": "z"}]), {}, 400, "z"),
    (changed(parameters={"binary_data_output": 1}), {}, 400, "binary_data_output"),
    (changed(parameters={"sequence_id": -1}), {}, 400, "sequence_id"),
    (changed(parameters={"sequence_start": True}), {}, 400, "correlation ID"),
    (changed(parameters=place(9)), {}, 400, "must specify the START flag"),
    (changed(outputs=[{"name": "y", "parameters": {"classification": 1}}]), {}, 501, "classes"),
    (tensor(parameters={"shared_memory_region": "r"}), {}, 501, "shared memory"),
    (tensor(parameters={"binary_data_size": 20}), {}, 400, "binary_data_size"),
    (tensor(name="z"), {}, 400, "z"),
    (tensor(shape=[1, 1, 4], data=[0.0] * 4), {}, 400, "x"),
    (tensor(datatype="FP64"), {}, 400, "float64"),
    (tensor(datatype="BF16"), {}, 400, "bfloat16"),
    (BINARY + RAW, {}, 400, "not JSON"),
    (BINARY + RAW, {LENGTH: "-1"}, 400, LENGTH),
    (BINARY + RAW, {LENGTH: "x"}, 400, LENGTH),
    (BINARY + RAW, {LENGTH: "0"}, 400, LENGTH),
    (BINARY + RAW, {LENGTH: "999"}, 400, LENGTH),
    (BINARY + RAW[:-1], {LENGTH: str(len(BINARY))}, 400, "binary_data_size"),
    (BINARY + RAW + b"0", {LENGTH: str(len(BINARY))}, 400, "1 bytes follow"),
    (b"not packed", {"Content-Encoding": "gzip"}, 400, "Content-Encoding"),
    (b"not packed", {"Content-Encoding": "deflate"}, 400, "Content-Encoding"),
    (b"x", {"Content-Encoding": "br"}, 400, "'br'"),
    (gzip.compress(b"{}", mtime=0)[:-2], {"Content-Encoding": "gzip"}, 400, "too early"),
    (gzip.compress(b"{}", mtime=0) + b"0", {"Content-Encoding": "gzip"}, 400, "too late"),
    (gzip.compress(b" " * 100_001, mtime=0), {"Content-Encoding": "gzip"}, 413, "unpacked"),
    (b" " * 100_001, {}, 413, "100001 bytes"),
]


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"), WRONG, ids=[words for *_, words in WRONG]
)
def test_a_wrong_request_is_refused(
    reference: Path, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    async def conversation(client: httpx.AsyncClient, application: Application) -> None:
        answer = await client.post(INFER, content=body, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        assert words in answer.json()["error"]
        assert application.service.live_streams == 0

    limit = 100_000 if status == 413 else 1 << 20
    in_process(reference, conversation, max_body=limit)


def test_nan_as_python_writes_it_is_understood(reference: Path) -> None:
    async def conversation(client: httpx.AsyncClient, application: Application) -> None:
        for value in ("NaN", "-Infinity", '"Infinity"'):
            body = changed().replace(b'"data": [', b'"data": [' + value.encode() + b", ", 1)
            shorter = json.loads(body)
            shorter["inputs"][0]["data"].pop()
            answer = await client.post(INFER, content=json.dumps(shorter).encode())
            assert answer.status_code == 200

    in_process(reference, conversation)


def test_too_much_to_do_says_when_to_come_back(reference: Path) -> None:
    async def conversation(client: httpx.AsyncClient, application: Application) -> None:
        for number, status in ((1, 200), (2, 429)):
            body = document(chunk(), **place(number, start=True))
            answer = await client.post(INFER, json=body)
            assert answer.status_code == status
        assert int(answer.headers["retry-after"]) >= 1

    in_process(reference, conversation, capacity=1)


def test_a_mounted_application_starts_by_itself(reference: Path) -> None:
    async def run() -> None:
        application = stateport.serve.app(reference)
        name = reference.stem

        async def mounted(scope: Any, receive: Any, send: Any) -> None:
            await application({**scope, "root_path": "/ml"}, receive, send)

        transport = httpx.ASGITransport(mounted)
        async with httpx.AsyncClient(transport=transport, base_url="http://here/ml") as client:
            body = document(chunk(), **place(1, start=True))
            answer = await client.post(f"/v2/models/{name}/infer", json=body)
            assert answer.status_code == 200
            assert (await client.get("/v2/health/ready")).status_code == 200
            described = (await client.get("/openapi.json")).json()
            assert described["servers"] == [{"url": "/ml"}]
        await application.stop(grace=0)

    asyncio.run(run())


def test_metrics_count(reference: Path) -> None:
    async def conversation(client: httpx.AsyncClient, application: Application) -> None:
        await client.post(INFER, json=document(chunk(), **place(1, start=True)))
        await client.post(INFER, json=document(chunk(), **place(9)))
        page = (await client.get("/metrics")).text
        for line in (
            'stateport_requests_total{model="lstm",outcome="ok"} 1.0',
            'stateport_requests_total{model="lstm",outcome="invalid"} 1.0',
            'stateport_request_seconds_count{model="lstm"} 2.0',
            'stateport_batch_size_bucket{le="1",model="lstm"} 1.0',
            'stateport_live_streams{model="lstm"} 1.0',
        ):
            assert line in page.splitlines()

    in_process(reference, conversation)
