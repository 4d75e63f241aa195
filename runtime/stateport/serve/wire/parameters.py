# SPDX-License-Identifier: Apache-2.0
"""The parameters of a request that say which stream it belongs to.

Source: Triton's sequence extension, docs/protocol/extension_sequence.md in
https://github.com/triton-inference-server/server. `sequence_step` is stateport's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ...shown import shown
from ..errors import ServeError, Status
from ..request import LARGEST_ID, SequenceId, is_unicode

#: Parameters of a tensor that ask for what stateport does not have.
_FOREIGN: Final = {
    "classification": "classes. Ask for the output itself, and sort it",
    "shared_memory_region": "shared memory. Send and receive the data itself",
}


class StreamParameters(NamedTuple):
    """Which stream a request belongs to, and which of its steps it is."""

    sequence: SequenceId | None
    start: bool
    end: bool
    step: int | None


_NO_STREAM: Final = StreamParameters(None, start=False, end=False, step=None)


def read_parameters(parameters: Mapping[str, Any]) -> StreamParameters:
    """The stream of a request, from its parameters. Parameters with other names are left alone.

    Raises:
        ServeError: an id, a flag or a number of a step has the wrong type or range.
    """
    if not parameters:
        return _NO_STREAM

    return StreamParameters(
        _sequence_id(parameters.get("sequence_id")),
        read_flag(parameters, "sequence_start"),
        read_flag(parameters, "sequence_end"),
        _step(parameters.get("sequence_step")),
    )


def check_tensor(name: str, parameters: Mapping[str, Any]) -> None:
    """Refuses parameters of one tensor that would have an effect that stateport does not have.

    Raises:
        ServeError: with the parameter.
    """
    for foreign, words in _FOREIGN.items():
        if foreign in parameters:
            raise ServeError(
                Status.UNSUPPORTED,
                f"Tensor {shown(name)} has the parameter {foreign!r}; this server does not have "
                f"{words}.",
            )


def read_flag(parameters: Mapping[str, Any], key: str, default: bool = False) -> bool:
    """A parameter that is true or false.

    Raises:
        ServeError: it is something else.
    """
    value = parameters.get(key, default)
    if isinstance(value, bool):
        return value

    raise ServeError(
        Status.INVALID, f"{key} is {shown(value)}; true or false was expected. Send one of them."
    )


def _sequence_id(value: object) -> SequenceId | None:
    """The id, or None for the two ids that mean none: 0 and the empty string."""
    if value is None or (value == 0 and type(value) is int) or value == "":
        return None
    if type(value) is int and 0 < value <= LARGEST_ID:
        return value
    if isinstance(value, str) and is_unicode(value):
        return value

    raise ServeError(
        Status.INVALID,
        f"sequence_id is {shown(value)}; an integer from 1 to 2**64 - 1, or a text was expected. "
        "Send such an id, or leave it out for a call without a stream.",
    )


def _step(value: object) -> int | None:
    if value is None or (type(value) is int and 1 <= value < 2**63):
        return value

    raise ServeError(
        Status.INVALID,
        f"sequence_step is {shown(value)}; the number of the step was expected, an integer from 1. "
        "Send it, or leave it out.",
    )
