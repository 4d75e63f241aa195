# SPDX-License-Identifier: Apache-2.0
"""Streams in Redis or Valkey, which several servers share: one hash for each stream.

A script (https://redis.io/docs/latest/develop/programmability/eval-intro/) compares the version and
writes the record in one step, so that of two servers that step one stream, one is told so.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any, Final
from urllib.parse import urlsplit

from ...errors import InputError, StateportError
from ...shown import shown
from .base import ABSENT, ANY, Conflict, Record, StoreError
from .batches import Batches, Delete, Load, Operation, Outcome, Save
from .url import options_of, seconds_of

#: KEYS: the stream. ARGV: the expected version, the version to write, milliseconds until the record
#: expires, and then names and values. A repeated write finds its own version, and changes nothing.
_SAVE: Final = f"""
local have = redis.call('HGET', KEYS[1], 'version')
local free = ARGV[1] == '{ANY}' or (have or '{ABSENT}') == ARGV[1]
if not free and have ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'version', ARGV[2], unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
_DELETE: Final = f"""
local have = redis.call('HGET', KEYS[1], 'version')
if have and ARGV[1] ~= '{ANY}' and have ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
"""


class RedisStore:
    """Records in Redis: hashes named PREFIX:MODEL/ID, which expire by themselves."""

    is_durable = True

    def __init__(self, url: str, prefix: str = "stateport", timeout: float = 2.0) -> None:
        """Names a store; `open` connects.

        Args:
            url: redis://USER:PASSWORD@HOST:PORT/DB, rediss:// for TLS, or unix://PATH.
            prefix: what the names of all keys begin with.
            timeout: how long Redis may take for an answer, in seconds.

        Raises:
            InputError: the URL is none.
            StateportError: the package redis is not installed.
        """
        self.name = _name_of(url)
        self._prefix = prefix
        try:
            from redis import exceptions
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise StateportError(
                "The package redis is not installed, which a store in Redis needs. Install the "
                "extra: pip install 'stateport[serve]'."
            ) from error

        self._errors: Any = exceptions
        try:
            self._redis: Any = Redis.from_url(
                url,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise InputError(
                f"The store {self.name} is no URL of Redis: {error}. redis://HOST:PORT/DB was "
                "expected."
            ) from error
        self._batches = Batches(self._run)

    @classmethod
    def of(cls, url: str) -> RedisStore:
        """The store of a URL such as "redis://localhost:6379/0?prefix=lab&timeout=1".

        Raises:
            InputError: it is no URL of Redis, or an option is unknown.
        """
        address, options = options_of(url, {"prefix": "stateport", "timeout": "2"})
        return cls(address, options["prefix"], seconds_of("timeout", options["timeout"]))

    async def open(self) -> None:
        """Does nothing: the first operation connects."""

    async def close(self) -> None:
        """Ends the operations that run, and disconnects."""
        await self._batches.finish()
        await self._redis.aclose()

    async def check(self) -> None:
        """Sends a ping.

        Raises:
            StoreError: no answer came in time.
        """
        try:
            await self._redis.ping()
        except (self._errors.RedisError, OSError) as error:
            raise _unreachable(error) from error

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
        """Sends operations in one go; once more on a new connection where the old one was dead.

        All of them may be repeated: a write finds its own version.
        """
        try:
            try:
                replies = await self._send(operations)
            except self._errors.ConnectionError:
                replies = await self._send(operations)
        except (self._errors.RedisError, OSError) as error:
            raise _unreachable(error) from error

        pairs = zip(operations, replies, strict=True)
        return [*starmap(self._outcome, pairs)]

    async def _send(self, operations: Sequence[Operation]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        # The scripts are sent each time: a server that was started anew does not know them.
        pipeline.execute_command("SCRIPT LOAD", _SAVE)
        pipeline.execute_command("SCRIPT LOAD", _DELETE)
        for operation in operations:
            pipeline.execute_command(*self._command(operation))
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies[2:]

    def _command(self, operation: Operation) -> list[Any]:
        key = f"{self._prefix}:{operation.key}"
        if isinstance(operation, Load):
            return ["HGETALL", key]
        if isinstance(operation, Delete):
            return ["EVALSHA", _sha(_DELETE), 1, key, operation.expected]

        record = operation.record
        milliseconds = max(1, int(record.idle * 1000))
        head = ["EVALSHA", _sha(_SAVE), 1, key, operation.expected, record.version, milliseconds]
        return [*head, *_fields(record)]

    def _outcome(self, operation: Operation, reply: Any) -> Outcome:
        if isinstance(reply, Exception):
            return _unreachable(reply)
        if isinstance(operation, Load):
            return _record(reply)
        return None if reply == 1 else Conflict()


def _sha(script: str) -> str:
    """The name that Redis gives a script: its SHA-1."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _fields(record: Record) -> list[Any]:
    """A record as names and values; the version is written by the script."""
    return [
        *("model", record.model),
        *("step", record.step),
        *("state", record.state),
        *("answer", record.answer),
        *("inputs", record.inputs),
        *("ended", int(record.ended)),
        *("holder", record.holder),
        *("held_until", repr(record.held_until)),
        *("idle", repr(record.idle)),
    ]


def _record(reply: Any) -> Outcome:
    """The record of a hash; None if there is none."""
    pairs = (
        reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    )
    fields = dict(pairs)
    if not fields:
        return None
    try:
        return Record(
            version=fields[b"version"].decode(),
            model=fields[b"model"].decode(),
            step=int(fields[b"step"]),
            state=fields[b"state"],
            answer=fields[b"answer"],
            inputs=fields[b"inputs"],
            ended=fields[b"ended"] == b"1",
            holder=fields[b"holder"].decode(),
            held_until=float(fields[b"held_until"]),
            idle=float(fields[b"idle"]),
        )
    except (KeyError, ValueError) as error:
        return StoreError(f"a record is damaged, or another program wrote it ({shown(error)})")


def _unreachable(error: Exception) -> StoreError:
    text = str(error) or type(error).__name__
    return StoreError(text)


def _name_of(url: str) -> str:
    """The URL without the user's name and the password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
