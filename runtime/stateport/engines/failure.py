"""What an engine's library raised, told from what a signal's handler raised meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import CodeType, TracebackType

from ..errors import EngineError


def failure(message: str, error: Exception) -> EngineError:
    """The error of ours for one of a library's.

    Raises:
        Exception: `error` itself, where a signal's handler raised it. Handlers run between any two
            instructions of Python, those of the library among them; their errors are the caller's.
    """
    if _by_a_handler(error.__traceback__):
        raise error
    return EngineError(message)


def _by_a_handler(traceback: TracebackType | None) -> bool:
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {_code(handler) for handler in handlers if callable(handler)}
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


def _code(handler: Callable[..., object]) -> CodeType | None:
    """The code of a function, of a method, or of what else can be called."""
    function = getattr(handler, "func", handler)  # of a functools.partial
    if not hasattr(function, "__code__") and not hasattr(function, "__func__"):
        function = type(function).__call__
    return getattr(function, "__code__", None)
