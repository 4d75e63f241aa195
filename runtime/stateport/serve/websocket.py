# SPDX-License-Identifier: Apache-2.0
"""Streams over a WebSocket. docs/websocket.md describes the frames."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Final

import orjson

from .calls import Infers, call, log_refusal, unexpected
from .errors import ServeError, Status
from .http_messages import Receive, Send
from .limits import Limits, Window
from .request import Request, Response
from .wire.rest_messages import AnswerForm, read_request, write_response

_LENGTH: Final = struct.Struct("<I")
#: Outputs begin at a multiple of this in a frame, so that a browser can view them as an array.
_ALIGNMENT: Final = 8


class Conversation:
    """One open socket. Requests run at once, those of one stream in their order."""

    def __init__(
        self,
        service: Infers,
        model: str,
        version: str,
        client: str,
        receive: Receive,
        send: Send,
        limits: Limits,
    ) -> None:
        self._service = service
        self._model = model
        self._version = version
        self._client = client
        self._receive = receive
        self._send = send
        self._running: set[asyncio.Task[None]] = set()
        self._window = Window(limits.max_body)
        self._is_open = True

    async def run(self) -> None:
        """Answers frames until the client closes the socket; then waits for what still runs."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                break

            frame = message.get("bytes")
            size = len(frame or b"")
            await self._window.enter(size)  # a client that only sends has to wait here
            task = asyncio.create_task(self._answer(frame, size))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        self._is_open = False
        if self._running:
            await asyncio.wait(self._running)

    async def _answer(self, frame: bytes | None, size: int) -> None:
        """Answers one frame. Tasks begin in the order of the frames, and so do their calls."""
        try:
            answer = await self._answer_to(frame)
            if self._is_open:
                await self._write(answer)
        finally:
            self._window.leave(size)

    async def _answer_to(self, frame: bytes | None) -> bytes:
        request: Request | None = None
        try:
            request, form = self._read(frame)
            return write_frame(await call(self._service, "websocket", request), request, form)
        except ServeError as error:
            if request is None:
                log_refusal("websocket", error)
            return error_frame(error, request, frame)
        except Exception as error:
            return error_frame(unexpected("websocket", error, request), request, frame)

    def _read(self, frame: bytes | None) -> tuple[Request, AnswerForm]:
        if frame is None:
            raise ServeError(
                Status.INVALID,
                "The frame is a text frame; a binary frame was expected. Send the length of the "
                "JSON object in 4 bytes, the object, and the data.",
            )
        if len(frame) < _LENGTH.size:
            raise ServeError(
                Status.INVALID,
                f"The frame has {len(frame)} bytes; the length of a JSON object in 4 bytes and the "
                "object were expected. Send them.",
            )

        (length,) = _LENGTH.unpack_from(frame)
        body = memoryview(frame)[_LENGTH.size :]
        return read_request(self._model, self._version, body, length, self._client, binary=True)

    async def _write(self, frame: bytes) -> None:
        try:
            await self._send({"type": "websocket.send", "bytes": frame})
        except Exception:
            # The client is gone. Servers differ in the error that says so.
            self._is_open = False


def write_frame(response: Response, request: Request, form: AnswerForm) -> bytes:
    """An answer as a frame."""
    if request.sequence is not None and "sequence_id" not in response.parameters:
        parameters = {"sequence_id": request.sequence, **response.parameters}
        response = Response(
            response.model, response.version, response.id, response.outputs, parameters
        )

    header, raw = write_response(response, form)
    return _frame(header, raw)


def error_frame(error: ServeError, request: Request | None, frame: bytes | None) -> bytes:
    """An error as a frame: what is wrong, and with which request, as far as that is known."""
    document: dict[str, Any] = {"error": str(error), "status": error.status.http}
    if error.retry_after is not None:
        document["retry_after"] = error.retry_after

    request_id, sequence = _names_in(frame) if request is None else (request.id, request.sequence)
    if request_id:
        document["id"] = request_id
    if sequence is not None:
        document["parameters"] = {"sequence_id": sequence}
    return _frame(orjson.dumps(document), [])


def _frame(header: bytes, raw: list[bytes]) -> bytes:
    """The length of the header, the header with spaces up to the alignment, and the data."""
    padding = -(_LENGTH.size + len(header)) % _ALIGNMENT
    length = _LENGTH.pack(len(header) + padding)
    return b"".join([length, header, b" " * padding, *raw])


def _names_in(frame: bytes | None) -> tuple[str, int | str | None]:
    """The request's id and the stream's id in a frame that cannot be read, where it has them."""
    try:
        (length,) = _LENGTH.unpack_from(frame or b"")
        document = orjson.loads((frame or b"")[_LENGTH.size :][:length])
        name, sequence = document.get("id"), document.get("parameters", {}).get("sequence_id")
    except (struct.error, ValueError, AttributeError):
        return "", None

    return (
        name if isinstance(name, str) else "",
        sequence if isinstance(sequence, int | str) else None,
    )
