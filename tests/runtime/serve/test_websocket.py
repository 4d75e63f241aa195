# SPDX-License-Identifier: Apache-2.0
"""WebSockets: many streams on one socket, errors as frames, and who may open one."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

import stateport
from tests.runtime.serve.asking import binary, chunk, frame, place, unframed
from tests.runtime.serve.process import Serving


def opened(
    server: Serving, path: str = "/v2/models/lstm/stream", **options: Any
) -> ClientConnection:
    socket: ClientConnection = connect(f"ws://{server.http}{path}", proxy=None, **options)
    return socket


def answer_to(socket: ClientConnection, data: bytes | str) -> tuple[dict[str, Any], bytes]:
    socket.send(data)
    received = socket.recv()
    assert isinstance(received, bytes)
    return unframed(received)


def test_many_streams_on_one_socket(server: Serving, reference: Path) -> None:
    model = stateport.load(reference)
    names: list[int | str] = [*range(1, 20), *(f"w{n}" for n in range(20))]
    streams = {name: model.stream() for name in names}
    expected: dict[int | str, list[Any]] = {name: [] for name in names}
    got: dict[int | str, list[Any]] = {name: [] for name in names}

    with opened(server) as socket:
        for turn in range(4):
            for seed, name in enumerate(names):
                x = chunk(1 + (seed + turn) % 3, seed + 100 * turn)
                expected[name].append(streams[name](x))
                socket.send(frame(x, **place(name, start=turn == 0, end=turn == 3)))
        for _ in range(4 * len(names)):
            received = socket.recv()
            assert isinstance(received, bytes)
            header, data = unframed(received)
            shape = header["outputs"][0]["shape"]
            assert (len(received) - len(data)) % 8 == 0
            got[header["parameters"]["sequence_id"]].append(
                np.frombuffer(data, np.float32).reshape(shape)
            )

    for name in names:
        for y, y_expected in zip(got[name], expected[name], strict=True):
            assert y.shape == y_expected.shape
            np.testing.assert_allclose(y, y_expected, atol=2e-6)


def test_outputs_may_be_json(server: Serving) -> None:
    with opened(server) as socket:
        data = frame(chunk(), binary_data_output=False, **place("json", start=True, end=True))
        header, rest = answer_to(socket, data)
        assert len(header["outputs"][0]["data"]) == 10
        assert rest == b""


HEADER, RAW = binary(chunk(), **place(404))


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        ("text", 400, "a text frame"),
        (b"", 400, "0 bytes"),
        (b"123", 400, "3 bytes"),
        (struct.pack("<I", 0), 400, "a JSON object"),
        (struct.pack("<I", 99) + b"{}", 400, "a JSON object"),
        (struct.pack("<I", 2) + b"{}", 400, "'inputs'"),
        (struct.pack("<I", 2) + b"[]", 400, "a JSON object"),
        (struct.pack("<I", len(HEADER)) + HEADER, 400, "binary_data_size"),
        (struct.pack("<I", len(HEADER)) + HEADER + RAW + b"0", 400, "1 bytes follow"),
        (frame(chunk(), **place(404)), 400, "must specify the START flag"),
        (frame(chunk(), **place(404, end=True)), 400, "must specify the START flag"),
    ],
)
def test_an_error_is_a_frame_and_the_socket_stays(
    server: Serving, data: bytes | str, status: int, words: str
) -> None:
    with opened(server) as socket:
        header, rest = answer_to(socket, data)
        assert header["status"] == status
        assert words in header["error"]
        assert rest == b""
        if isinstance(data, bytes) and HEADER in data:
            assert header["id"] == "r"
            assert header["parameters"] == {"sequence_id": 404}

        fine, _ = answer_to(socket, frame(chunk(), **place("fine", start=True, end=True)))
        assert fine["model_name"] == "lstm"


def test_two_writers_on_one_stream_are_taken_in_turn(server: Serving, reference: Path) -> None:
    stream = stateport.load(reference).stream()
    expected = [stream(chunk(1, 7)) for _ in range(3)]
    with opened(server) as one, opened(server) as other:
        sockets = (one, other, one)
        for number, socket in enumerate(sockets):
            at = place("both", start=number == 0, end=number == 2)
            _, data = answer_to(socket, frame(chunk(1, 7), **at))
            assert data == expected[number].tobytes()


def test_a_stream_outlives_its_socket(server: Serving) -> None:
    with opened(server) as socket:
        answer_to(socket, frame(chunk(), **place("survivor", start=True)))
    with opened(server) as socket:
        header, _ = answer_to(socket, frame(chunk(), **place("survivor", end=True)))
        assert "error" not in header


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("/v2/models/other/stream", {}, 404),
        ("/v2/models/lstm/versions/3/stream", {}, 404),
        ("/v2/models/lstm", {}, 403),
        ("/v2/models/lstm/stream", {"origin": "http://elsewhere.example"}, 403),
        ("/v2/models/lstm/stream", {"origin": "http://["}, 403),
        ("/v2/models/lstm/stream", {"origin": "null"}, 403),
    ],
)
def test_a_socket_that_is_refused(
    server: Serving, path: str, options: dict[str, Any], status: int
) -> None:
    with pytest.raises(InvalidStatus) as caught, opened(server, path, **options):
        pass
    assert caught.value.response.status_code == status


def test_a_page_of_this_server_may_open_a_socket(server: Serving) -> None:
    with opened(server, origin=f"http://{server.http}") as socket:
        header, _ = answer_to(socket, frame(chunk(), **place("page", start=True, end=True)))
        assert header["model_version"] == "1"


def test_a_frame_that_is_too_large_closes_the_socket(server: Serving) -> None:
    with opened(server) as socket:
        socket.send(bytes(1 << 19))
        with pytest.raises(Exception, match="1009"):
            socket.recv()
