# SPDX-License-Identifier: Apache-2.0
"""Clients that send too much, too slowly, or do not read: each is cut off, the others are not."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tests.runtime.serve.asking import chunk, document, frame, place
from tests.runtime.serve.process import Serving

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


def test_a_socket_that_never_reads_is_cut_off(hasty: Serving) -> None:
    upgrade = (
        "GET /v2/models/lstm/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    payload = frame(chunk(20_000), **place("deaf-socket", start=True))
    masked = struct.pack("!BBQI", 0x82, 0x80 | 127, len(payload), 0) + payload
    with connected(hasty, receive_buffer=4096) as client:
        client.sendall(upgrade.encode())
        assert is_cut_off(client, masked)
    assert is_well(hasty)
