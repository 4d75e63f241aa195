# SPDX-License-Identifier: Apache-2.0
"""Clients that send too much, too slowly, or do not read: each is cut off, the others are not."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.runtime.serve.asking import chunk, document, frame, place
from tests.runtime.serve.process import Serving
from tests.runtime.serve.test_hostile_requests import memory

PATH = "/v2/models/lstm/infer"


@contextmanager
def connected(server: Serving, *, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    host, port = server.http.split(":")
    with socket.socket() as client:
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(60)
        client.connect((host, int(port)))
        yield client


def header(length: int, path: str = PATH, *lines: str) -> bytes:
    rest = "".join(f"{line}\r\n" for line in lines)
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{rest}\r\n".encode()


def all_from(client: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    pieces = []
    try:
        while piece := client.recv(1 << 16):
            pieces.append(piece)
    except ConnectionError:
        pass
    return b"".join(pieces)


def is_well(server: Serving) -> bool:
    """Whether another client gets an answer."""
    body = json.dumps(document(chunk(), **place("well", start=True, end=True))).encode()
    with connected(server) as client:
        client.sendall(header(len(body), PATH, "Connection: close") + body)
        return all_from(client).startswith(b"HTTP/1.1 200 ")


def is_cut_off(client: socket.socket, request: bytes) -> bool:
    """Whether the server ends the connection while requests are sent and no answer is read."""
    try:
        for _ in range(1000):
            client.sendall(request)
    except ConnectionError:
        return True
    return False


def test_a_silent_client_is_cut_off(hasty: Serving) -> None:
    with connected(hasty) as client:
        assert all_from(client) == b""


def test_a_slow_header_is_cut_off(hasty: Serving) -> None:
    with connected(hasty) as client:
        client.sendall(header(10)[:40])
        assert all_from(client) == b""


def test_a_slow_body_is_answered_408(hasty: Serving) -> None:
    with connected(hasty) as client:
        client.sendall(header(100) + b"{")
        answer = all_from(client)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.5 seconds" in answer
    assert is_well(hasty)


def test_a_large_body_is_answered_413(server: Serving) -> None:
    with connected(server) as client:
        client.sendall(header(1 << 20) + bytes(1 << 20))
        answer = all_from(client)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"--max-body" in answer


def test_a_large_body_in_pieces_is_answered_413(server: Serving) -> None:
    start = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with connected(server) as client:
        client.sendall(start + 6 * piece + b"0\r\n\r\n")
        assert all_from(client).startswith(b"HTTP/1.1 413 ")


def test_a_half_closed_socket_gets_its_answer(server: Serving) -> None:
    body = json.dumps(document(chunk(), **place("half", start=True, end=True))).encode()
    with connected(server) as client:
        client.sendall(header(len(body), PATH, "Connection: close") + body)
        client.shutdown(socket.SHUT_WR)
        assert all_from(client).startswith(b"HTTP/1.1 200 ")


def test_a_half_sent_request_is_forgotten(server: Serving) -> None:
    with connected(server) as client:
        client.sendall(header(100) + b"{")
        client.shutdown(socket.SHUT_WR)
        assert all_from(client) == b""
    assert is_well(server)


def test_what_is_not_http_is_answered_400(server: Serving) -> None:
    with connected(server) as client:
        client.sendall(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
        assert all_from(client).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_never_reads_answers_is_cut_off(hasty: Serving) -> None:
    body = json.dumps(document(chunk(20_000), **place("deaf", start=True))).encode()
    request = header(len(body)) + body
    with connected(hasty, receive_buffer=4096) as client:
        assert is_cut_off(client, request)
    assert is_well(hasty)


UPGRADE = (
    "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
OPENING = f"GET /v2/models/lstm/stream HTTP/1.1\r\n{UPGRADE}\r\n".encode()


def masked(first: int, payload: bytes) -> bytes:
    """A frame of a client, with the mask 0."""
    return struct.pack("!BBI", first, 0x80 | len(payload), 0) + payload


@contextmanager
def opened(server: Serving, **options: int) -> Iterator[socket.socket]:
    """A WebSocket, on which a test writes bytes as it likes."""
    with connected(server, **options) as client:
        client.sendall(OPENING)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 101 ")
        yield client


def test_a_socket_that_never_reads_is_cut_off(hasty: Serving) -> None:
    payload = frame(chunk(20_000), **place("deaf-socket", start=True))
    data = struct.pack("!BBQI", 0x82, 0x80 | 127, len(payload), 0) + payload
    with opened(hasty, receive_buffer=4096) as client:
        assert is_cut_off(client, data)
    assert is_well(hasty)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        ("{} X-A: ", b"a" * 4096),
        ("{}", b"X-A: b\r\n" * 500),
        ("POST /", b"a" * 4096),
        ("{}Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n" * 500),
        ("{}Transfer-Encoding: chunked\r\n\r\n1;a=", b"a" * 4096),
    ],
    ids=["value", "headers", "address", "trailers", "extension"],
)
def test_an_endless_header_is_cut_off(server: Serving, start: str, piece: bytes) -> None:
    with connected(server) as client:
        client.sendall(start.format(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n").encode())
        assert is_cut_off(client, piece * 16)  # more than the sockets hold
    assert is_well(server)


def test_a_long_header_is_answered_431(server: Serving) -> None:
    with connected(server) as client:
        client.sendall(f"GET /v2 HTTP/1.1\r\nHost: x\r\nX-A: {'a' * 30_000}\r\n\r\n".encode())
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    with connected(server) as client:
        client.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\nX-A: ")
        client.sendall(b"a" * 330_000)  # what comes with the beginning is not counted: 256,000
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 431 ")


def test_a_body_in_the_smallest_chunks_is_taken(server: Serving) -> None:
    body = json.dumps(document(chunk(400), **place("tiny", start=True, end=True))).encode()
    assert len(body) > 20_000
    pieces = b"".join([b"1\r\n%c\r\n" % byte for byte in body])
    start = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with connected(server) as client:
        client.sendall(start + pieces + b"0\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("request_", [b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n", header(2) + b"{}"])
def test_requests_ahead_of_their_answers_wait(server: Serving, request_: bytes) -> None:
    count = 2000
    with connected(server) as client:
        client.sendall(count * request_ + header(2, PATH, "Connection: close") + b"{}")
        answers = all_from(client)
    assert answers.count(b"HTTP/1.1 ") == count + 1


@pytest.mark.parametrize(
    "opening",
    [
        OPENING.replace(b"Host: x", b"X-Long: " + b"a" * 9000),
        OPENING.replace(b"Host: x", b"\r\n".join([b"X-A: b"] * 200)),
        OPENING.replace(b"GET", b"POST"),
        OPENING.replace(b"Version: 13", b"Version: 99"),
        OPENING.replace(b"Key: dGhl", b"Key: "),
    ],
    ids=["long", "many", "method", "version", "key"],
)
def test_a_wrong_handshake_is_refused(server: Serving, opening: bytes) -> None:
    with connected(server) as client:
        client.sendall(opening)
        assert all_from(client).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("payload", [b"", b"a"])
def test_endless_small_fragments_close_the_socket(server: Serving, payload: bytes) -> None:
    with opened(server) as client:
        client.sendall(masked(0x02, b"a"))
        client.sendall(masked(0x00, payload) * 2000)
        assert struct.pack("!H", 1009) in all_from(client)
    assert is_well(server)


def test_a_text_that_is_none_closes_the_socket(server: Serving) -> None:
    with opened(server) as client:
        client.sendall(masked(0x81, b"\xff"))
        assert struct.pack("!H", 1007) in all_from(client)


def test_pings_that_are_not_read_are_not_kept(hasty: Serving) -> None:
    with opened(hasty, receive_buffer=4096) as client:
        before = memory(hasty.process)
        assert is_cut_off(client, masked(0x89, bytes(125)) * 1000)
        assert memory(hasty.process) < before + (16 << 20)
    assert is_well(hasty)
