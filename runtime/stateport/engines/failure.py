# SPDX-License-Identifier: Apache-2.0
"""Errors of an engine's library, distinguished from errors that a signal handler raised."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import CodeType, TracebackType

from ..errors import EngineError


def failure(message: str, error: Exception) -> EngineError:
    """An EngineError with this message for an error that came out of an engine's library.

    Raises:
        Exception: `error` itself if a signal handler raised it. Python runs handlers between any
            two instructions, also inside the library; their errors belong to the caller.
    """
    if _is_raised_by_handler(error.__traceback__):
        raise error
    return EngineError(message)


def _is_raised_by_handler(traceback: TracebackType | None) -> bool:
    codes = _codes_of_handlers()
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


def _codes_of_handlers() -> set[CodeType | None]:
    codes = set()
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler):
            codes.add(_code(handler))
    return codes


def _code(handler: Callable[..., object]) -> CodeType | None:
    """The code of a function, a method, or another callable; None if it is not in Python."""
    function = getattr(handler, "func", handler)  # of a functools.partial
    if not hasattr(function, "__code__") and not hasattr(function, "__func__"):
        function = type(function).__call__
    return getattr(function, "__code__", None)
