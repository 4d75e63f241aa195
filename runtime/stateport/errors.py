"""The one error tree.

Everything that stateport raises on purpose stands below `StateportError`::

    StateportError
    ├── FileError            a file cannot be read or written, or is not what it should be
    ├── ContractError        the file's contract is absent, malformed, or not what its graph has
    ├── InputError           an input array does not fit the contract
    │   └── StateError       a state does not fit the contract, or this call
    ├── StreamingError       this network cannot be run chunk by chunk
    └── EngineError          the engine could not load or run the graph
        └── EngineUnavailable    the engine is not installed, or does not work here

The exporter adds its own branch, `stateport_exporter.ExportError`. Every message says what
happened, what was expected, and what to do. It is one line, and harmless wherever it is shown:
names and reasons from files stand in it as `printable` gives them.
"""

from __future__ import annotations

from typing import Final

from .printable import printable

#: A message is at most so long; an engine may quote whatever a file holds.
_LONGEST: Final = 4_000
#: That is what is repeated of an error that somebody else's code raised.
_LONGEST_QUOTE: Final = 600


class StateportError(Exception):
    """Base of all errors that stateport raises on purpose."""

    def __str__(self) -> str:
        return printable(_shortened(super().__str__(), _LONGEST))


class FileError(StateportError):
    """A file cannot be read or written, or is not what it should be."""


class ContractError(StateportError):
    """The contract of a file is absent, malformed, or not what the graph has."""


class InputError(StateportError, ValueError):
    """An input array does not fit the contract."""


class StateError(InputError):
    """A state does not fit the contract, or not this call."""


class StreamingError(StateportError):
    """The network cannot be run chunk by chunk."""


class EngineError(StateportError):
    """The engine could not load or run the graph."""


class EngineUnavailable(EngineError):  # noqa: N818  # the design settles the name
    """The engine is not installed, or does not work on this machine."""


def text_of(error: BaseException) -> str:
    """What an error says; empty where its author wrote a `__str__` that fails."""
    try:
        return str(error)
    except (Exception, SystemExit):
        return ""


def first_line(error: BaseException) -> str:
    """The first line of what an error of somebody else's code says; empty if it says nothing."""
    lines = (line.strip() for line in text_of(error).splitlines())
    return _shortened(next(filter(None, lines), ""), _LONGEST_QUOTE)


def in_words(error: BaseException) -> str:
    """The kind of an error of somebody else's code, and the first line of what it says."""
    kind, text = type(error).__name__, first_line(error)
    return f"{kind}: {text}" if text else kind


def _shortened(text: str, longest: int) -> str:
    rest = len(text) - longest
    return text if rest <= 0 else f"{text[:longest]}... and {rest:,} characters more"
