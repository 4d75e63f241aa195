# SPDX-License-Identifier: Apache-2.0
"""Requests with random changes, on every transport: no crash, no 500, no stream left behind.

`STATEPORT_FUZZ_REQUESTS=20000` sends that many; by default some hundred.
"""

from __future__ import annotations

import http.client
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from websockets.sync.client import connect

from stateport.serve.grpc_server import SERVICE
from tests.runtime.serve.asking import binary, chunk, document, frame, message, place, unframed
from tests.runtime.serve.process import Serving, serving

REQUESTS = int(os.environ.get("STATEPORT_FUZZ_REQUESTS", "450")) // 3
NAMES = [f"f{n}" for n in range(5)]
FINE_STATUSES = {200, 400, 404, 408, 413, 429, 501}
FINE_CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}
#: Words of the protocol with wrong values, which random bytes would rarely hit.
WORDS = [b"-1", b"1e400", b"null", b"[]", b"{}", b"NaN", b"18446744073709551616", b'"\\ud800"',
         b"true", b'"FP64"', b'"BOOL"', b"[1,1,0]", b"[2,1,5]", b'"x"', b"\0", b"\xff"]  # fmt: skip


def changed(data: bytes, chance: random.Random) -> bytes:
    """The data with a few bytes or words changed, cut off, repeated or moved."""
    mutant = bytearray(data)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 5])):
        at = chance.randrange(len(mutant) + 1)
        kind = chance.randrange(6)
        if kind == 0:
            mutant[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            mutant[at : at + chance.randrange(1, 9)] = chance.choice(WORDS)
        elif kind == 2:
            del mutant[at : at + chance.randrange(1, 9)]
        elif kind == 3:
            del mutant[at:]
        elif kind == 4:
            mutant[at:at] = mutant[at : at + chance.randrange(1, 40)]
        else:
            mutant[at:at] = chance.choice(WORDS)
    return bytes(mutant)


def parameters(chance: random.Random) -> dict[str, Any]:
    return place(chance.choice(NAMES), start=chance.random() < 0.5, end=chance.random() < 0.3)


def over_rest(server: Serving, chance: random.Random) -> None:
    connection = http.client.HTTPConnection(server.http, timeout=120)
    for _ in range(REQUESTS):
        header, raw = binary(chunk(chance.randrange(1, 4)), **parameters(chance))
        length = len(header)
        if chance.random() < 0.5:
            header = json.dumps(document(chunk(), **parameters(chance))).encode()
            length, raw = len(header), b""
        body = changed(header, chance) + changed(raw, chance)
        if chance.random() < 0.7:
            length = min(len(body), length)
        headers = {"Inference-Header-Content-Length": str(length)}
        connection.request("POST", "/v2/models/lstm/infer", body, headers)
        with connection.getresponse() as answer:
            answer.read()
            assert answer.status in FINE_STATUSES, (answer.status, body)
    connection.close()


def over_grpc(server: Serving, chance: random.Random) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for _ in range(REQUESTS):
            request = message(chunk(chance.randrange(1, 4)), **parameters(chance))
            data = changed(request.SerializeToString(), chance)
            code = grpc.StatusCode.OK
            try:
                call(data)
            except grpc.RpcError as error:
                code = error.code()
            assert code.name in FINE_CODES, (code, data)


def over_a_socket(server: Serving, chance: random.Random) -> None:
    with connect(f"ws://{server.http}/v2/models/lstm/stream", proxy=None) as socket:
        for _ in range(REQUESTS):
            data = changed(frame(chunk(chance.randrange(1, 4)), **parameters(chance)), chance)
            socket.send(data)
            answer = socket.recv()
            assert isinstance(answer, bytes)
            header, _ = unframed(answer)
            assert header.get("status", 200) in FINE_STATUSES, (header, data)


@pytest.mark.parametrize("send", [over_rest, over_grpc, over_a_socket])
def test_changed_requests(reference: Path, send: Callable[[Serving, random.Random], None]) -> None:
    # Changed ids start streams of any name, which their expiry alone ends.
    with serving({"lstm": reference}, "--max-body", "256K", "--idle", "1") as server:
        before = memory(server.process)
        send(server, random.Random(0))  # noqa: S311
        assert memory(server.process) < before + (64 << 20)
        wait_until_no_stream_lives(server)


def memory(process: int) -> int:
    """The memory of a process in bytes."""
    with open(f"/proc/{process}/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wait_until_no_stream_lives(server: Serving) -> None:
    """Asks the server until its streams have expired; a leaked one would keep it forever."""
    connection = http.client.HTTPConnection(server.http, timeout=120)
    for _ in range(100_000):
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
        line = next(x for x in page.splitlines() if x.startswith("stateport_live_streams{"))
        if float(line.rpartition(" ")[2]) == 0:
            connection.close()
            return
    raise AssertionError(f"streams are left: {line}")
