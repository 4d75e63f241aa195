# SPDX-License-Identifier: Apache-2.0
"""Streams in a folder: an SQLite file in WAL mode (https://sqlite.org/wal.html).

With `sync=full` every transaction is on the disk when it ends, so that streams survive a power
failure. With `sync=normal` it is with the operating system: streams survive the death of the
server's process, but a power failure may take the last transactions.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from ...errors import FileError, InputError
from ...files.paths import usable_path
from ...shown import shown
from .base import ABSENT, ANY, Conflict, Record, StoreError
from .batches import Batches, Delete, Load, Operation, Outcome, Save
from .url import options_of

#: The file in the folder, and the format of its table.
_FILE: Final = "streams.sqlite"
_FORMAT: Final = 1
#: How long a transaction waits for another process's, in seconds.
_BUSY: Final = 5.0
#: How often records that expired are removed, in seconds.
_PURGE: Final = 30.0

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS streams (
  key TEXT PRIMARY KEY, version TEXT NOT NULL, model TEXT NOT NULL, step INTEGER NOT NULL,
  state BLOB NOT NULL, answer BLOB NOT NULL, inputs BLOB NOT NULL, ended INTEGER NOT NULL,
  holder TEXT NOT NULL, held_until REAL NOT NULL, idle REAL NOT NULL, expires REAL NOT NULL
)"""
_INDEX: Final = "CREATE INDEX IF NOT EXISTS expiry ON streams (expires)"
_READ: Final = (
    "SELECT version, model, step, state, answer, inputs, ended, holder, held_until, idle "
    "FROM streams WHERE key = ? AND expires > ?"
)
_VERSION: Final = "SELECT version FROM streams WHERE key = ? AND expires > ?"
_WRITE: Final = """
INSERT INTO streams VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
  version = excluded.version, model = excluded.model, step = excluded.step,
  state = excluded.state, answer = excluded.answer, inputs = excluded.inputs,
  ended = excluded.ended, holder = excluded.holder, held_until = excluded.held_until,
  idle = excluded.idle, expires = excluded.expires"""
#: After how many pages the log is written back into the file: 64 MiB of pages of 4 KiB. Each time
#: waits for the disk.
_CHECKPOINT: Final = 16384


_T = TypeVar("_T")


class FileStore:
    """Records in an SQLite file, which several servers of one machine may share."""

    is_durable = True

    def __init__(
        self, folder: Path, sync: str = "full", clock: Callable[[], float] = time.time
    ) -> None:
        """Names a store; `open` opens it.

        Args:
            folder: the folder of the file; it is made if it is not there.
            sync: "full" or "normal".
            clock: the time in seconds since 1970.
        """
        self.name = f"file:{folder}"
        self._path = folder / _FILE
        self._sync = sync
        self._clock = clock
        self._purged = clock()
        # SQLite blocks: one thread of its own has the connection.
        self._thread = ThreadPoolExecutor(1, "stateport-store")
        self._connection: sqlite3.Connection | None = None
        self._batches = Batches(self._run)

    @classmethod
    def of(cls, url: str) -> FileStore:
        """The store of a URL such as "file:DIR?sync=normal".

        Raises:
            InputError: there is no folder in it, or an option is unknown.
        """
        path, options = options_of(url.removeprefix("file:"), {"sync": "full"})
        if not path:
            raise InputError("The store 'file:' names no folder; 'file:DIR' was expected.")
        if options["sync"] not in ("full", "normal"):
            raise InputError(
                f"The store has sync={shown(options['sync'])}; 'full' or 'normal' was expected."
            )
        return cls(usable_path(path), options["sync"])

    async def open(self) -> None:
        """Opens the file, and makes it if it is not there.

        Raises:
            FileError: the folder cannot be used, or the file is another program's.
        """
        try:
            await self._in_thread(self._connect)
        except (OSError, sqlite3.Error) as error:
            raise FileError(
                f"The streams cannot be kept in {self._path}: {error}. A folder was expected that "
                "this user may write to."
            ) from error

    async def close(self) -> None:
        """Ends the transactions that run, and closes the file."""
        await self._batches.finish()
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                await self._in_thread(self._connection.close)
            self._connection = None
        self._thread.shutdown(wait=False)

    async def check(self) -> None:
        """Reads from the file.

        Raises:
            StoreError: that is not possible.
        """
        await self._in_thread(lambda: self._transact([Load("")]))

    def load(self, key: str) -> asyncio.Future[Record | None]:
        """Reads a record; see `Store`."""
        return self._batches.submit(Load(key))

    def save(self, key: str, record: Record, expected: str) -> asyncio.Future[None]:
        """Writes a record; see `Store`."""
        return self._batches.submit(Save(key, record, expected))

    def delete(self, key: str, expected: str) -> asyncio.Future[None]:
        """Removes a record; see `Store`."""
        return self._batches.submit(Delete(key, expected))

    async def _run(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        return await self._in_thread(lambda: self._transact(operations))

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _connect(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=_BUSY, isolation_level=None)
        self._connection = connection
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={self._sync}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT}")

        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _FORMAT):
            raise FileError(
                f"{self._path} has the format {version}; this stateport knows {_FORMAT}. Use "
                "another folder."
            )
        connection.execute(_TABLE)
        connection.execute(_INDEX)
        connection.execute(f"PRAGMA user_version={_FORMAT}")

    def _transact(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Runs operations as one transaction, of which all or nothing is written."""
        connection = self._connection
        if connection is None:
            raise StoreError("it is not open")

        writes = any(not isinstance(operation, Load) for operation in operations)
        try:
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            try:
                now = self._clock()
                outcomes = [self._do(connection, operation, now) for operation in operations]
                if writes:
                    self._purge(connection, now)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error
        return outcomes

    def _do(self, connection: sqlite3.Connection, operation: Operation, now: float) -> Outcome:
        if isinstance(operation, Load):
            row = connection.execute(_READ, (operation.key, now)).fetchone()
            return None if row is None else _record(row)

        row = connection.execute(_VERSION, (operation.key, now)).fetchone()
        version = ABSENT if row is None else row[0]
        if isinstance(operation, Delete):
            if version not in (ABSENT, operation.expected) and operation.expected != ANY:
                return Conflict()
            connection.execute("DELETE FROM streams WHERE key = ?", (operation.key,))
            return None

        record = operation.record
        if operation.expected != ANY and version not in (operation.expected, record.version):
            return Conflict()
        connection.execute(_WRITE, _row(operation.key, record, now))
        return None

    def _purge(self, connection: sqlite3.Connection, now: float) -> None:
        """Removes what expired, now and then."""
        if now - self._purged >= _PURGE:
            self._purged = now
            connection.execute("DELETE FROM streams WHERE expires <= ?", (now,))


def _record(row: Sequence[Any]) -> Record:
    version, model, step, state, answer, inputs, ended, holder, held_until, idle = row
    return Record(
        version, model, step, state, answer, inputs, bool(ended), holder, held_until, idle
    )


def _row(key: str, record: Record, now: float) -> tuple[Any, ...]:
    return (
        key,
        record.version,
        record.model,
        record.step,
        record.state,
        record.answer,
        record.inputs,
        int(record.ended),
        record.holder,
        record.held_until,
        record.idle,
        now + record.idle,
    )
