# SPDX-License-Identifier: Apache-2.0
"""Turns: requests of one key run one after the other, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Any


class Turns:
    """One turn at a time for each key. A key that nobody waits for takes no memory."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    def __contains__(self, key: Hashable) -> bool:
        """Whether somebody has the turn."""
        return key in self._waiting

    async def take(self, key: Hashable) -> None:
        """Waits for the turn. It does not wait if nobody has it."""
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = deque()
            return

        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came, and the cancellation after it
                self.give(key)
            raise

    def give(self, key: Hashable) -> None:
        """Gives the turn to the next that waits."""
        waiting = self._waiting[key]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[key]


async def settled(future: asyncio.Future[Any]) -> bool:
    """Waits until a future is done, and returns whether the caller was cancelled meanwhile.

    What has begun is recorded before a cancellation takes effect. The caller raises it at the end.
    """
    was_cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            was_cancelled = True
    return was_cancelled
