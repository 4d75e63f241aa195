"""What forward asks the world outside for: files, the date, random bytes."""

from __future__ import annotations

import builtins
import contextlib
import inspect
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType, GeneratorType
from typing import Any, Final

from ..blame import Line, author_line, is_authors

#: What is asked, by the name of the built-in function.
_ASKED: Final = {
    "datetime.now": "the date",
    "datetime.utcnow": "the date",
    "datetime.today": "the date",
    "date.today": "the date",
    "urandom": "random bytes",
    "localtime": "the date",
    "gmtime": "the date",
    "input": "the keyboard",
}
#: Python's own modules that open files to say something, and to import.
_IDLE: Final = frozenset(
    {"importlib", "inspect", "linecache", "logging", "tokenize", "traceback", "warnings"}
)


@dataclass
class Asked:
    """What code asked for, and the line that did; and the generators that it moved on."""

    lines: dict[str, Line] = field(default_factory=dict)
    frames: set[int] = field(default_factory=set)

    def moved(self, generator: GeneratorType[Any, Any, Any]) -> bool:
        """Whether a generator was moved on."""
        return id(generator.gi_frame) in self.frames


@contextlib.contextmanager
def asked_outside() -> Iterator[Asked]:
    """What an author's code asks for inside."""
    asked = Asked()

    def note(what: str) -> None:
        line = author_line()
        if line is not None and not _is_idle(sys._getframe(2)):
            asked.lines.setdefault(what, line)

    def watch(frame: FrameType, event: str, function: Any) -> None:
        if event == "call" and frame.f_code.co_flags & inspect.CO_GENERATOR:
            asked.frames.add(id(frame))
        elif event == "c_call":
            what = _ASKED.get(getattr(function, "__qualname__", ""))
            if what is not None:
                note(what)

    before = sys.getprofile()
    originals = builtins.open, io.open
    builtins.open = io.open = _opening(originals[0], note)
    sys.setprofile(watch)
    try:
        yield asked
    finally:
        sys.setprofile(before)
        builtins.open, io.open = originals


def _opening(original: Callable[..., Any], note: Callable[[str], None]) -> Any:
    def open_file(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if "r" in mode or "+" in mode:
            note(f"the file {os.fspath(file) if not isinstance(file, int) else file}")
        return original(file, mode, *rest, **named)

    return open_file


def _is_idle(frame: FrameType | None) -> bool:
    """Whether Python itself opens a file on its own account."""
    while frame is not None and not is_authors(frame.f_code.co_filename):
        if frame.f_globals.get("__name__", "").split(".")[0] in _IDLE:
            return True
        frame = frame.f_back
    return False
