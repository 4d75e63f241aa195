# SPDX-License-Identifier: Apache-2.0
"""Refuses a call of a stream or a pool while another call of it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from .errors import StateportError

#: Identifies one call. The frame of the call has it in a local variable named `this_call`.
Call = list[None]


class SingleOwner:
    """Records which call of a stream or a pool is running.

    An exception from a signal handler may end a call between any two of Python's instructions, so
    that not even `finally` is sure to release a lock. Therefore this is not a lock. It holds the
    call itself, and a call that has ended does not count: the next call sees that no thread has it
    on its stack, and takes over.
    """

    __slots__ = ("_name", "running")

    def __init__(self, name: str) -> None:
        self._name = name
        # The call that is running, or one that was cut off before it could reset this to None.
        self.running: Call | None = None

    def begin(self, this_call: Call) -> None:
        """Registers a call that begins. At its end, the call sets `running` to None.

        Raises:
            StateportError: another call is running.
        """
        # Python switches threads and runs signal handlers only after calls and in loops, and so
        # not between this comparison and the assignment.
        if self.running is None:
            self.running = this_call
            return
        self.take_over(this_call)

    def take_over(self, this_call: Call) -> None:
        """As `begin`, if `running` is not None: replaces a call that was cut off."""
        while True:
            registered = self.running
            if registered is not None and _is_on_a_stack(registered):
                raise StateportError(
                    f"Another call of this {self._name} is running, in another thread or further "
                    f"up the stack. A {self._name} has one owner: give each thread a separate "
                    f"{self._name} (they can share the model), or hold a lock around every call."
                )

            if self.running is registered:  # no other thread has taken over in the meantime
                self.running = this_call
                return


class _Owned(Protocol):
    _owner: SingleOwner


_S = TypeVar("_S", bound=_Owned)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def owned(method: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """Decorates a method of an object with an `_owner`, so that only one call runs at a time."""

    @wraps(method)
    def alone(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        this_call: Call = []
        self._owner.begin(this_call)
        try:
            return method(self, *args, **kwargs)
        finally:
            self._owner.running = None

    return alone


def _is_on_a_stack(call: Call) -> bool:
    """Whether any thread has the frame of this call on its stack."""
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            if "this_call" in frame.f_code.co_varnames and frame.f_locals.get("this_call") is call:
                return True
            frame = frame.f_back
    return False
