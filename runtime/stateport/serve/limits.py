# SPDX-License-Identifier: Apache-2.0
"""How much a connection may send, and how long it may take."""

from __future__ import annotations

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
