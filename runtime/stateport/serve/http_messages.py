# SPDX-License-Identifier: Apache-2.0
"""Bodies of HTTP requests, within limits, and answers, on the bare interface of ASGI."""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

import orjson

from ..shown import shown
from .errors import ServeError, Status
from .limits import Limits

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

_JSON: Final = (b"content-type", b"application/json")
#: How `zlib` is told to expect each encoding. Clients send both forms of `deflate`.
_GZIP: Final = zlib.MAX_WBITS | 16
_DEFLATE: Final = (zlib.MAX_WBITS, -zlib.MAX_WBITS)


class Gone(Exception):  # noqa: N818  # nothing went wrong
    """The client is gone, so that nobody reads an answer."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limits: Limits) -> bytes:
    """Reads a body, and unpacks it if it is compressed.

    Raises:
        ServeError: it is too large, too slow, or packed in an unknown or a broken way.
        Gone: the client closed the connection.
    """
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limits.max_body:
        await _discard(receive, limits)
        raise _too_large(f"{int(length)} bytes", limits)

    try:
        async with asyncio.timeout(limits.body_seconds):
            body = await _receive_all(receive, limits)
    except TimeoutError:
        raise ServeError(
            Status.SLOW,
            f"The body did not arrive within {limits.body_seconds:g} seconds. Send it faster, or "
            "in smaller requests.",
        ) from None

    encoding = headers.get(b"content-encoding")
    return body if encoding is None else _unpacked(body, encoding.strip().lower(), limits)


async def send_answer(send: Send, status: int, body: bytes, headers: Headers = (_JSON,)) -> None:
    """Sends a whole answer."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-length", b"%d" % len(body)), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: ServeError) -> None:
    """Sends an error as the protocol has it: {"error": text}."""
    await send_answer(send, error.status.http, error_body(error), error_headers(error))


def error_body(error: ServeError) -> bytes:
    """The JSON object of an error."""
    return orjson.dumps({"error": str(error)})


def error_headers(error: ServeError) -> list[tuple[bytes, bytes]]:
    """The headers of an error: when to come back, and what the client has to show."""
    headers = [_JSON]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    if error.status is Status.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (Status.TOO_LARGE, Status.SLOW):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    return headers


async def _receive_all(receive: Receive, limits: Limits) -> bytes:
    message = await receive()
    if not message.get("more_body") and message["type"] == "http.request":
        return _checked(message.get("body", b""), limits)  # most requests: one piece

    pieces: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise Gone
        piece = message.get("body", b"")
        size += len(piece)
        if size > limits.max_body:
            await _discard(receive, limits)
            raise _too_large("more", limits)

        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)
        message = await receive()


async def _discard(receive: Receive, limits: Limits) -> None:
    """Reads on for a while, so that the client has sent its body and then reads the answer.

    A connection that is closed with unread bytes is reset, and the answer may be lost.
    """
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds / 10):
            while size <= limits.max_body:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    return
    except TimeoutError:
        return


def _checked(body: bytes, limits: Limits) -> bytes:
    if len(body) > limits.max_body:
        raise _too_large(f"{len(body)} bytes", limits)
    return body


def _unpacked(body: bytes, encoding: bytes, limits: Limits) -> bytes:
    """The body without its compression, which may not grow beyond the limit."""
    if encoding == b"identity":
        return body
    if encoding == b"gzip":
        return _inflated(body, _GZIP, limits)
    if encoding == b"deflate":
        try:
            return _inflated(body, _DEFLATE[0], limits)
        except ServeError as error:
            if error.status is Status.TOO_LARGE:
                raise
            return _inflated(body, _DEFLATE[1], limits)

    raise ServeError(
        Status.INVALID,
        f"Content-Encoding is {shown(encoding.decode('latin-1'))}; gzip, deflate or identity was "
        "expected. Send the body in one of them.",
    )


def _inflated(body: bytes, bits: int, limits: Limits) -> bytes:
    reader = zlib.decompressobj(bits)
    try:
        data = reader.decompress(body, limits.max_body + 1)
    except zlib.error as error:
        raise ServeError(
            Status.INVALID,
            f"The body is not what its Content-Encoding says: {error}. Send it packed so, or "
            "without the header.",
        ) from error

    if len(data) > limits.max_body:
        raise _too_large("more when unpacked", limits)
    if not reader.eof or reader.unused_data:
        raise ServeError(
            Status.INVALID,
            "The packed body ends too early or too late. Send one complete packed body.",
        )
    return data


def _too_large(size: str, limits: Limits) -> ServeError:
    return ServeError(
        Status.TOO_LARGE,
        f"The body has {size}; this server takes at most {limits.max_body} bytes. Send smaller "
        "chunks, or start the server with a larger --max-body.",
    )
