# SPDX-License-Identifier: Apache-2.0
"""The store that keeps nothing: streams live in their process, and end with it."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from .base import Record

_T = TypeVar("_T")


class MemoryStore:
    """Keeps nothing. The streams of a server are in its memory alone."""

    name = "memory"
    is_durable = False

    async def open(self) -> None:
        """Does nothing."""

    async def close(self) -> None:
        """Does nothing."""

    async def check(self) -> None:
        """Does nothing."""

    def load(self, key: str) -> asyncio.Future[Record | None]:  # noqa: ARG002
        """There is never a record."""
        return _done(None)

    def save(self, key: str, record: Record, expected: str) -> asyncio.Future[None]:  # noqa: ARG002
        """Does nothing."""
        return _done(None)

    def delete(self, key: str, expected: str) -> asyncio.Future[None]:  # noqa: ARG002
        """Does nothing."""
        return _done(None)


def _done(result: _T) -> asyncio.Future[_T]:
    future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future
