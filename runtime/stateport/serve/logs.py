# SPDX-License-Identifier: Apache-2.0
"""Structured logs: one JSON object on each line, with the stream's id."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import orjson

from ..errors import in_words
from ..printable import printable

#: The logger of this package. A service that mounts the application handles its records.
LOG: Final = logging.getLogger("stateport.serve")


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time, level, message, and the fields given with it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": printable(record.getMessage()),
        }
        entry.update(getattr(record, "fields", {}))
        if record.exc_info is not None and record.exc_info[1] is not None:
            entry["error"] = in_words(record.exc_info[1])
            if record.levelno >= logging.ERROR:
                entry["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(entry, default=str).decode()


def log(level: int, message: str, **fields: object) -> None:
    """Logs a message with fields. Those without a value are left out."""
    if LOG.isEnabledFor(level):
        present = {key: value for key, value in fields.items() if value not in (None, "")}
        LOG.log(level, message, extra={"fields": present})


def log_to(stream: TextIO | None = None, level: str = "info") -> None:
    """Sends this package's records, and those of the HTTP server, to a stream; default stderr."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines())

    LOG.handlers = [handler]
    LOG.setLevel(level.upper())
    LOG.propagate = False

    server = logging.getLogger("uvicorn.error")
    server.handlers = [handler]
    server.setLevel("ERROR")  # it warns of every malformed request, which its client has caused
    server.propagate = False
