# SPDX-License-Identifier: Apache-2.0
"""Operations of a store, which run together as one transaction while others wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .base import Record, StoreError

#: The most operations in one transaction.
_MOST: Final = 512


@dataclass(frozen=True, slots=True)
class Load:
    """Reads the record of a key."""

    key: str


@dataclass(frozen=True, slots=True)
class Save:
    """Writes a record where the one that there is has the expected version."""

    key: str
    record: Record
    expected: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes a record that has the expected version."""

    key: str
    expected: str


Operation = Load | Save | Delete
#: What an operation gives: a record or None, or the error that its waiter gets.
Outcome = Record | None | Exception


class Batches:
    """Runs operations: those that arrive while others run form the next batch."""

    def __init__(self, run: Callable[[Sequence[Operation]], Awaitable[Sequence[Outcome]]]) -> None:
        """Makes an empty queue.

        Args:
            run: runs operations, and gives the outcome of each. A `StoreError` that it raises goes
                to all of them and to those that wait, because the store is gone.
        """
        self._run = run
        self._waiting: deque[tuple[Operation, asyncio.Future[Any]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    def submit(self, operation: Operation) -> asyncio.Future[Any]:
        """The result of an operation to come."""
        result = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, result))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return result

    async def finish(self) -> None:
        """Waits for the operations that there are."""
        while self._worker is not None:
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        try:
            while self._waiting:
                count = min(len(self._waiting), _MOST)
                await self._run_batch([self._waiting.popleft() for _ in range(count)])
        finally:
            self._worker = None

    async def _run_batch(self, batch: list[tuple[Operation, asyncio.Future[Any]]]) -> None:
        try:
            outcomes = await self._run([operation for operation, _ in batch])
        except StoreError as error:
            batch += self._waiting
            self._waiting.clear()
            outcomes = [error] * len(batch)
        except Exception as error:  # every waiter gets an answer
            outcomes = [error] * len(batch)

        for (_, result), outcome in zip(batch, outcomes, strict=True):
            if result.done():
                continue
            if isinstance(outcome, Exception):
                result.set_exception(outcome)
            else:
                result.set_result(outcome)
