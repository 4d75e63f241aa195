# SPDX-License-Identifier: Apache-2.0
"""uvicorn's protocols, with the limits of time that it lacks, and with fewer writes.

uvicorn closes a connection between two requests, and asks a silent WebSocket for a sign of life. It
waits for ever for a header that comes byte by byte, and for a client that does not read. It writes
the header and the body of an answer one after the other, and each frame by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from .limits import Limits


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

    A write to the operating system takes longer than all else that a short answer needs.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Writes soon."""
        if not self._pieces:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pieces.append(data)

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
    """HTTP/1.1: a header has to arrive in time, and answers have to be read."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._header_timer = Timer()

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

    def on_message_begin(self) -> None:
        """Waits for the rest of the header."""
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
