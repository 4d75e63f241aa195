# SPDX-License-Identifier: Apache-2.0
"""uvicorn's protocols, with the limits that it lacks, and with fewer writes.

uvicorn closes a connection between two requests, and asks a silent WebSocket for a sign of life. It
waits for ever for a header that comes byte by byte, and for a client that does not read. It takes
headers, trailers, pings, fragments and requests ahead of their answers in any number, and leaves a
handshake without an answer where the library for WebSockets cannot read it. It writes the header
and the body of an answer one after the other, and each frame by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from .limits import Limits

#: The most bytes of a request that are not its body: a header, trailers, and what frames chunks. A
#: chunk of one byte takes six more.
_MOST_BESIDE: Final = 64 << 10
_MOST_FOR_EACH_BYTE: Final = 8
#: The most fragments of a message that are shorter than 64 bytes on average.
_MOST_FRAGMENTS: Final = 1024
_REFUSED: Final = b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_HEADER_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large" + _REFUSED
_BAD_HANDSHAKE: Final = b"HTTP/1.1 400 Bad Request" + _REFUSED


class Timer:
    """One timer, which is set and cleared many times."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    def set(self, seconds: float, action: Callable[[], None]) -> None:
        """Runs the action after so many seconds, unless the timer is set again or cleared."""
        self.clear()
        self._handle = asyncio.get_running_loop().call_later(seconds, action)

    def clear(self) -> None:
        """Forgets the action."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class JoiningTransport:
    """A transport that writes at the end of a turn of the event loop what was written in it.

    A write to the operating system takes longer than all else that a short answer needs. Reading
    can be held, whatever the protocol asks for.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._pieces: list[bytes] = []
        self._is_paused = False
        self._is_held = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Writes soon."""
        if not self._pieces:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pieces.append(data)

    def pause_reading(self) -> None:
        """Reads no more until `resume_reading`."""
        self._is_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads on, unless reading is held."""
        self._is_paused = False
        if not self._is_held:
            self._transport.resume_reading()

    def hold_reading(self) -> None:
        """Reads no more until `release_reading`."""
        self._is_held = True
        self._transport.pause_reading()

    def release_reading(self) -> None:
        """Reads on, unless reading is paused."""
        self._is_held = False
        if not self._is_paused:
            self._transport.resume_reading()

    def close(self) -> None:
        """Writes what waits, and closes."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Closes at once; what waits is lost."""
        self._pieces.clear()
        self._transport.abort()

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        elif pieces:
            self._transport.writelines(pieces)


class _LimitedWriting(asyncio.Protocol):
    """A protocol whose answers have to be read in time."""

    limits: ClassVar = Limits()
    transport: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._write_timer = Timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits for nothing any more."""
        self._write_timer.clear()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Waits for the client to read."""
        super().pause_writing()
        self._write_timer.set(self.limits.write_seconds, self._abort)

    def resume_writing(self) -> None:
        """The client has read."""
        self._write_timer.clear()
        super().resume_writing()

    def _abort(self) -> None:
        self.transport.abort()


class LimitedHttp(_LimitedWriting, HttpToolsProtocol):
    """HTTP/1.1: a header has to be short and to arrive in time, and answers have to be read."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._header_timer = Timer()
        #: How many bytes came since the piece in which the request began, and how many of them are
        #: its body.
        self._received = 0
        self._body_size = 0

    def connection_made(self, transport: Any) -> None:
        """Waits for a header."""
        super().connection_made(JoiningTransport(transport))  # type: ignore[arg-type]
        self._header_timer.set(self.limits.header_seconds, self._abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits for nothing any more."""
        self._header_timer.clear()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keeps the connection of a client that has sent its request and only reads now."""
        is_asked = self.cycle is not None and not self.cycle.response_complete
        return is_asked and not self.cycle.more_body and self.scheme == "http"

    def data_received(self, data: bytes) -> None:
        """Reads on, unless there is too much beside the body."""
        self._received += len(data)
        super().data_received(data)
        most = _MOST_BESIDE + (1 + _MOST_FOR_EACH_BYTE) * self._body_size
        if self._received > most and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_HEADER_TOO_LARGE)
            self.transport.close()
        if self.pipeline:
            self.transport.hold_reading()

    def on_response_complete(self) -> None:
        """Goes on with the requests that came ahead of their answers, before it reads others."""
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self.transport.release_reading()

    def on_body(self, body: bytes) -> None:
        """Counts the body."""
        self._body_size += len(body)
        super().on_body(body)

    def on_message_begin(self) -> None:
        """Waits for the rest of the header."""
        self._received = self._body_size = 0
        super().on_message_begin()
        self._header_timer.set(self.limits.header_seconds, self._abort)

    def on_headers_complete(self) -> None:
        """The application waits for the body."""
        self._header_timer.clear()
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        """Another protocol takes over."""
        self._header_timer.clear()
        super().handle_websocket_upgrade()

    def timeout_keep_alive_handler(self) -> None:
        """Ends an idle connection at once; closed as usual, it would stay until all is read."""
        self._abort()


class LimitedWebSocket(_LimitedWriting, WebSocketsSansIOProtocol):
    """WebSockets: answers have to be read."""

    #: The answer to the newest pings of a client that does not read. It gets no others.
    _pong = b""
    _fragment_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Reads on. A handshake that cannot be read is refused."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(_BAD_HANDSHAKE)
            self.transport.close()

    def handle_cont(self, event: Frame) -> None:
        """Takes a fragment, unless there are too many small ones."""
        if not self.frames:
            self._fragment_bytes = 0
        self._fragment_bytes += len(event.data)
        if len(self.frames) > _MOST_FRAGMENTS + self._fragment_bytes // 64:
            if not self.close_sent:
                self.conn.fail(1009, "too many small fragments")
                self.handle_parser_exception()
            return
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Hands a message on. One that is no text, but says so, closes the socket."""
        try:
            if self.curr_msg_data_type == "text":
                b"".join(self.frames).decode()
        except UnicodeDecodeError:
            self.frames = []
            self.conn.fail(1007, "no UTF-8")
            self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Answers, or keeps the answer until the client reads."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self._pong = b"".join(self.conn.data_to_send()) or self._pong

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self._pong:
            self.transport.write(self._pong)
            self._pong = b""

    def keepalive_timeout(self) -> None:
        """Says farewell, and ends the connection where nobody reads it."""
        super().keepalive_timeout()
        self._write_timer.set(self.limits.write_seconds, self._abort)


def protocols(limits: Limits) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """The protocols for HTTP and for WebSockets, with these limits."""
    return (
        type("Http", (LimitedHttp,), {"limits": limits}),
        type("WebSocket", (LimitedWebSocket,), {"limits": limits}),
    )
