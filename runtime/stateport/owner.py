"""One owner: a call of a stream or a pool is refused while another one runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from .errors import StateportError

#: Stands for one call. The frame of the call has it in a local variable named `this_call`.
Call = list[None]


class SingleOwner:
    """Knows which call of a stream or a pool runs now.

    An exception of a signal's handler may end a call between any two of Python's instructions, so
    that no `finally` gives a lock back for certain. Therefore this is no lock. It holds the call
    itself, and a call that has ended does not count: whoever comes next finds that no thread has
    it in its stack any more, and goes on.
    """

    __slots__ = ("_name", "running")

    def __init__(self, name: str) -> None:
        self._name = name
        self.running: Call | None = (
            None  # the call that runs, or the last one, where it was cut off
        )

    def begin(self, this_call: Call) -> None:
        """Notes that a call begins; at its end it sets `running` to None.

        Raises:
            StateportError: another call runs.
        """
        # Between a comparison and an assignment, Python runs no other thread and no handler of a
        # signal. It does so behind calls alone, and in loops.
        if self.running is None:
            self.running = this_call
            return
        self.take_over(this_call)

    def take_over(self, this_call: Call) -> None:
        """As `begin`, where `running` is a call: one that was cut off is replaced."""
        while True:
            other = self.running
            if other is not None and _runs(other):
                raise StateportError(
                    f"Another call of this {self._name} is running, in another thread or beneath "
                    f"this call. A {self._name} has one owner: give each thread a {self._name} of "
                    "its own (they can share the model), or hold a lock around every call."
                )
            if self.running is other:
                self.running = this_call
                return


class _Owned(Protocol):
    _owner: SingleOwner


_S = TypeVar("_S", bound=_Owned)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def owned(method: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """Makes a method of something that has an `_owner` refuse to run beside another one."""

    @wraps(method)
    def alone(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        this_call: Call = []
        self._owner.begin(this_call)
        try:
            return method(self, *args, **kwargs)
        finally:
            self._owner.running = None

    return alone


def _runs(call: Call) -> bool:
    """Whether the frame of a call is in the stack of any thread."""
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            if "this_call" in frame.f_code.co_varnames and frame.f_locals.get("this_call") is call:
                return True
            frame = frame.f_back
    return False
