# SPDX-License-Identifier: Apache-2.0
"""The errors that stateport raises.

All are subclasses of `StateportError`::

    StateportError
    ├── FileError            a file cannot be read or written, or has the wrong format
    ├── ContractError        the file's contract is missing, malformed, or contradicts its graph
    ├── InputError           an input array does not fit the contract
    │   └── StateError       a state does not fit the contract, or this call
    ├── StreamingError       this network cannot be run chunk by chunk
    └── EngineError          the engine could not load or run the graph
        └── EngineUnavailable    the engine is not installed, or does not work here

The exporter adds `stateport_exporter.ExportError`. A message says what came, what was expected, and
what to do. It is one line, and can be shown anywhere: text from files is escaped by `printable`.
"""

from __future__ import annotations

from typing import IO, Final

from .printable import printable

#: The longest message, in characters. An engine may quote any part of a file.
_LONGEST: Final = 4_000
#: The longest quotation of an error that other code raised.
_LONGEST_QUOTE: Final = 600


class StateportError(Exception):
    """Base of all errors that stateport raises on purpose."""

    def __str__(self) -> str:
        return printable(_shortened(super().__str__(), _LONGEST))


class FileError(StateportError):
    """A file cannot be read or written, or has the wrong format."""


class ContractError(StateportError):
    """The contract of a file is missing, malformed, or contradicts its graph."""


class InputError(StateportError, ValueError):
    """An input array does not fit the contract."""


class StateError(InputError):
    """A state does not fit the contract, or this call."""


class StreamingError(StateportError):
    """The network cannot be run chunk by chunk."""


class EngineError(StateportError):
    """The engine could not load or run the graph."""


class EngineUnavailable(EngineError):  # noqa: N818  # the design settles the name
    """The engine is not installed, or does not work on this machine."""


def text_of(error: BaseException) -> str:
    """The message of an error; empty if its `__str__` fails."""
    try:
        return str(error)
    except (Exception, SystemExit):
        return ""


def first_line(error: BaseException) -> str:
    """The first line with text in the message of an error from other code; empty if none has."""
    for line in text_of(error).splitlines():
        text = line.strip()
        if text:
            return _shortened(text, _LONGEST_QUOTE)
    return ""


def last_line(errors: IO[bytes]) -> str:
    """What a process said last on stderr, in parentheses after a space; empty if nothing.

    `errors` is the file that stderr was written to.
    """
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines()]
    for line in reversed(lines):
        if line:
            return f" ({line})"
    return ""


def in_words(error: BaseException) -> str:
    """The class of an error from other code, and the first line of its message."""
    kind = type(error).__name__
    text = first_line(error)
    return f"{kind}: {text}" if text else kind


def why_not(error: OSError) -> object:
    """What the system says of a file that it could not read or write: "Permission denied"."""
    return error.strerror or error


def _shortened(text: str, longest: int) -> str:
    rest = len(text) - longest
    if rest <= 0:
        return text
    return f"{text[:longest]}... and {rest:,} characters more"
