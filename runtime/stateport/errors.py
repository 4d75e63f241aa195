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
happened, what was expected, and what to do.
"""


class StateportError(Exception):
    """Base of all errors that stateport raises on purpose."""


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
