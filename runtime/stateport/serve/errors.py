# SPDX-License-Identifier: Apache-2.0
"""What a request can be refused for, with its HTTP status and its gRPC status.

Triton's table has the pairs, apart from 408, 413 and 429:
https://github.com/triton-inference-server/server, docs/protocol.
"""

from __future__ import annotations

from enum import Enum

from ..errors import StateportError
from ..shown import shown


class Status(Enum):
    """Why a request is refused: the HTTP status, and the name of the gRPC status."""

    INVALID = (400, "INVALID_ARGUMENT")
    UNAUTHENTICATED = (401, "UNAUTHENTICATED")
    NOT_FOUND = (404, "NOT_FOUND")
    SLOW = (408, "DEADLINE_EXCEEDED")
    TOO_LARGE = (413, "RESOURCE_EXHAUSTED")
    EXHAUSTED = (429, "RESOURCE_EXHAUSTED")
    INTERNAL = (500, "INTERNAL")
    UNSUPPORTED = (501, "UNIMPLEMENTED")
    UNAVAILABLE = (503, "UNAVAILABLE")

    @property
    def http(self) -> int:
        """The HTTP status."""
        return self.value[0]

    @property
    def grpc(self) -> str:
        """The name of the gRPC status, one of `grpc.StatusCode`."""
        return self.value[1]


class ServeError(StateportError):
    """A request that is refused: the status, the message, and when to come back.

    Attributes:
        status: the kind of refusal.
        retry_after: seconds after which the same request may succeed, or None.
    """

    def __init__(self, status: Status, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def brief(text: str) -> str:
    """A client's text for a message: on one line, and with the middle of a long one left out."""
    return shown(text)[1:-1]
