# SPDX-License-Identifier: Apache-2.0
"""Where streams are kept outside of the process: nowhere, in SQLite, or in Redis."""

from __future__ import annotations

from ...errors import InputError
from ...shown import shown
from .base import ABSENT, ANY, Conflict, Record, Store, StoreError
from .memory import MemoryStore

__all__ = [
    "ABSENT",
    "ANY",
    "Conflict",
    "MemoryStore",
    "Record",
    "Store",
    "StoreError",
    "open_store",
]


def open_store(url: str) -> Store:
    """The store of a URL.

    Args:
        url: "memory"; "file:DIR", a folder for an SQLite file; or "redis://HOST:PORT/DB" as
            redis-py reads it, also with "rediss" for TLS and "unix" for a socket. Options follow a
            question mark: "file:DIR?sync=normal", "redis://localhost?prefix=lab".

    Raises:
        InputError: it is none of these, or has an unknown option.
    """
    if url == "memory":
        return MemoryStore()
    kind = url.partition(":")[0] if isinstance(url, str) else ""
    if kind == "file":
        from .file import FileStore

        return FileStore.of(url)
    if kind in ("redis", "rediss", "unix"):
        from .redis import RedisStore

        return RedisStore.of(url)
    raise InputError(
        f"The store is {shown(kind or url)}; 'memory', 'file:DIR' or 'redis://HOST:PORT' was "
        "expected."
    )
