"""The one way out: everything that a command prints leaves through here.

A text is shown as it is, on one line, and harmless (`stateport.printable`). It is never taken for
markup. What the stream's encoding lacks is escaped with backslashes. A reader that has gone away is
no error: the rest goes nowhere, and the exit code is what the command comes to.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from ..errors import FileError
from ..printable import json_text, printable

#: So wide are tables in a pipe, so that they are never cut.
_WIDE: Final = 160

#: What stdout was before it was kept for stateport alone, innermost last.
_kept: list[TextIO] = []


def say(*lines: str, err: bool = False) -> None:
    """Prints each text on a line of its own, on stdout or on stderr."""
    stream = _stream(err=err)
    _write("".join(f"{_fitting(line, stream)}\n" for line in lines), stream)


def say_json(document: Any) -> None:
    """Prints a document as JSON, and nothing else, on stdout."""
    _write(f"{json_text(document)}\n", _stream(err=False))


def say_commands(lines: Iterator[str]) -> None:
    """Prints commands for a build server on stderr; whoever made them has escaped what is in them.

    See `stateport.parity.reports.github`.
    """
    stream = _stream(err=True)
    _write("".join(f"{_encodable(line, stream)}\n" for line in lines), stream)


def show(table: RenderableType) -> None:
    """Prints a table on stdout; a text in it is only ever text."""
    stream = _stream(err=False)
    sheet = _Sheet(stream)
    _Screen(sheet).print(table)
    _write(_encodable(sheet.getvalue(), stream), stream)


def can_show(text: str) -> bool:
    """Whether the encoding of stdout has all characters of a text."""
    return _encodable(text, _stream(err=False)) == text


@contextlib.contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal what is being done; gives a function that changes the text."""
    stream = _stream(err=True)
    if not stream.isatty():
        yield lambda _: None
        return
    screen = _Screen(stream)
    with screen.status(screen.render_str(text)) as status:
        yield lambda changed: status.update(screen.render_str(changed))


class _Sheet(io.StringIO):
    """What rich draws for a stream, until it is written."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def isatty(self) -> bool:
        """Whether there will be colours."""
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """It says whether lines may be drawn with more than ASCII."""
        return self._stream.encoding


class _Screen(Console):
    """A console on which no text is markup, an emoji or a command to the terminal."""

    def __init__(self, stream: TextIO) -> None:
        width = None if stream.isatty() else _WIDE
        super().__init__(file=stream, width=width, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text that came as a `str`: every cell of a table, every title."""
        return super().render_str(_fitting(text, self.file), **options)


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """Keeps stdout for what leaves through here; what anybody else prints goes to stderr.

    PyTorch's exporter prints, some versions of onnxscript do, and a network's code may: a line of
    theirs would spoil JSON, or what the next command in a pipe reads.
    """
    _kept.append(_stream(err=False))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _kept.pop()


def prepare_streams() -> None:
    """Makes stdin, stdout and stderr such that printing cannot fail for a name.

    Where one of them was closed, `>&-`, it leads nowhere from now on; otherwise the next file that
    is opened would take its number, and be written to by whatever prints.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        _take_number(number)
        if getattr(sys, name) is None:
            # It stays open for as long as the process lives.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    if hasattr(sys.stdout, "reconfigure"):  # for what others print, a network's code above all
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    if logging.lastResort is not None:  # what libraries log goes to stderr where nobody listens
        logging.lastResort.setFormatter(_Formatter())


def finish(code: int) -> int:
    """Writes what others have left to write; the exit code, which is 1 where that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            _write("", stream)
        except FileError:
            return code or 1
    return code


def _take_number(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)


def _stream(*, err: bool) -> TextIO:
    if err:
        return sys.stderr
    return _kept[-1] if _kept else sys.stdout


def _fitting(text: str, stream: Any) -> str:
    """The text, harmless and within the stream's encoding."""
    return _encodable(printable(text), stream)


def _encodable(text: str, stream: Any) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _write(text: str, stream: TextIO) -> None:
    try:
        if text:  # even nothing is an error on a full disk
            stream.write(text)
        stream.flush()
    except OSError as error:
        _lead_nowhere(stream)
        if error.errno != errno.EPIPE and stream is not sys.stderr:
            raise FileError(f"The output could not be written: {error.strerror}.") from error


def _lead_nowhere(stream: TextIO) -> None:
    """Lets the rest go, so that nothing fails again when Python flushes the stream at its end."""
    with contextlib.suppress(OSError, ValueError):  # a stream of a test has no number
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,  # noqa: ARG001
) -> None:
    """In place of Python's own, which prints a warning as it is."""
    if file is None:
        say(f"{filename}:{lineno}: {category.__name__}: {message}", err=True)
    else:
        file.write(f"{printable(str(message))}\n")


class _Formatter(logging.Formatter):
    """One harmless line for each record, without a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())
