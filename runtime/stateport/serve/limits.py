# SPDX-License-Identifier: Apache-2.0
"""How much a connection may send, and how long it may take."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

#: Requests of one socket or gRPC stream that run at once. Beyond it, the socket is not read.
MOST_AT_ONCE: Final = 1024


@dataclass(frozen=True)
class Limits:
    """Limits of one connection.

    Attributes:
        max_body: the largest body, message or frame in bytes, unpacked.
        header_seconds: how long the header of a request may take.
        body_seconds: how long the body of a request may take.
        write_seconds: how long a client may leave an answer unread that fills the buffers.
        idle_seconds: how long a connection without a request stays open.
    """

    max_body: int = 64 << 20
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    write_seconds: float = 30.0
    idle_seconds: float = 75.0


class Window:
    """The requests of one socket or gRPC stream that are under way: so many, with so many bytes.

    A single request may have any size. One coroutine enters.
    """

    def __init__(self, most_bytes: int, most: int = MOST_AT_ONCE) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._count = 0
        self._bytes = 0
        self._left = asyncio.Event()

    async def enter(self, size: int) -> None:
        """Waits until there is room for a request of so many bytes, and takes it."""
        while self._count >= self._most or (self._count and self._bytes + size > self._most_bytes):
            self._left.clear()
            await self._left.wait()
        self._count += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """Frees the room of a request."""
        self._count -= 1
        self._bytes -= size
        self._left.set()
