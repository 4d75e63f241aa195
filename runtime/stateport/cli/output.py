# SPDX-License-Identifier: Apache-2.0
"""Everything that a command prints is printed by this module.

A text is printed on one line, made harmless by `stateport.printable`, and never interpreted as
markup. Characters that the stream's encoding lacks are escaped with backslashes. A reader that
closes its end of a pipe is no error: the rest of the output is discarded, and the exit code is that
of the command.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..errors import FileError
from ..printable import json_text, printable
from ..table import Table
from .phases import Phases

#: The width of tables in a pipe, unless a table needs more: there, no column is left out.
_PIPE_WIDTH: Final = 160

#: What no line ends in: commands, which somebody may copy, and numbers with their units.
_WHOLE: Final = re.compile(r"`[^`]*`|pip (?:un)?install \S+|[\d.]+ (?:s|dB|bytes)\b")
#: Stands for a space at which a line must not end; a printable text has none.
_SPACE: Final = "\0"

#: A verdict -> the parameters of the escape sequence for its colour (ECMA-48, SGR).
_VERDICTS: Final = {"PASS": "1;32", "FAIL": "1;31"}
#: The pictures of the sign that moves while a command works.
_SIGNS: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ASCII_SIGNS: Final = "-\\|/"

#: The streams that were stdout before `own_stdout` redirected it, innermost last.
_own_stdouts: list[TextIO] = []


def say(*lines: str, err: bool = False) -> None:
    """Prints each text on a separate line, on stdout or on stderr.

    On stdout, a terminal gets long texts in several lines, broken at spaces. Errors are left to the
    terminal, which keeps a command in them whole for whoever copies it.
    """
    stream = _stream(err=err)
    safe_lines = [_safe_text(line, stream) for line in lines]
    if not err and stream.isatty():
        screen = _Screen(stream)
        safe_lines = [_coloured(_wrapped(line, screen.width), screen) for line in safe_lines]
    _write("".join(f"{line}\n" for line in safe_lines), stream)


def say_json(document: Any) -> None:
    """Prints a document as JSON on stdout."""
    _write(f"{json_text(document)}\n", _stream(err=False))


def say_commands(lines: Iterator[str]) -> None:
    """Prints commands for a build server on stderr.

    Texts in them must be escaped already, as `stateport.parity.reports.github` does.
    """
    stream = _stream(err=True)
    _write("".join(f"{_encodable(line, stream)}\n" for line in lines), stream)


def show(table: Table) -> None:
    """Prints a table on stdout. Texts in it are not interpreted as markup.

    On a terminal it fits the width; a pipe gets all columns.
    """
    stream = _stream(err=False)
    sheet = _Sheet(stream)
    screen = _Screen(sheet)
    if not stream.isatty():
        screen.width = max(_PIPE_WIDTH, table.width(screen))

    screen.print(table)
    text = "".join(f"{line.rstrip()}\n" for line in sheet.getvalue().splitlines())
    _write(_encodable(text, stream), stream)


def can_show(text: str) -> bool:
    """Whether the encoding of stdout has all characters of a text."""
    return _encodable(text, _stream(err=False)) == text


@contextlib.contextmanager
def progress(text: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Shows the phases of the work and their times, on stderr if that is a terminal.

    Yields a function that takes "phase" or "phase: detail". What is shown disappears at the end;
    one line stays, on where the time went, if the work took a second.

    Args:
        text: the first phase.
        quiet: whether nothing is shown, because a program reads the output.
    """
    stream = _stream(err=True)
    if quiet or not stream.isatty():
        yield lambda _: None
        return

    screen = _Screen(stream)
    is_rich = _encodable(f"{_SIGNS}✓…", stream) == f"{_SIGNS}✓…"
    phases = Phases(_SIGNS, "✓") if is_rich else Phases(_ASCII_SIGNS, "+")
    phases(text)
    with Live(phases, console=screen, transient=True, refresh_per_second=10):
        yield phases

    phases.end()
    summary = phases.summary()
    if summary is not None:
        screen.print(Text(_wrapped(_safe_text(summary, stream), screen.width), "dim"))


class _Sheet(io.StringIO):
    """Collects what rich draws for a stream, so that it can be written at once."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def isatty(self) -> bool:
        """Whether rich may use colours: whether the stream is a terminal."""
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding, which decides how rich draws the lines of a table."""
        return self._stream.encoding


class _Screen(Console):
    """A console that never interprets text as markup, emoji or terminal commands."""

    def __init__(self, stream: TextIO) -> None:
        width = None if stream.isatty() else _PIPE_WIDTH
        super().__init__(file=stream, width=width, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Makes a text printable. rich calls this for every cell and title that is a `str`."""
        return super().render_str(_safe_text(text, self.file), **options)


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """Reserves stdout for this module; what other code prints goes to stderr.

    PyTorch's exporter prints, some versions of onnxscript do, and a network's code may. Such a line
    would spoil JSON output, or the input of the next command in a pipe.
    """
    _own_stdouts.append(_stream(err=False))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _own_stdouts.pop()


def prepare_streams() -> None:
    """Makes sure that stdin, stdout and stderr exist, and that no name of a file breaks printing.

    A stream that the caller closed (`>&-`) is replaced by the null device. Otherwise the next file
    to be opened would get its number, and would receive everything that is printed.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        _occupy_descriptor(number)
        if getattr(sys, name) is None:
            # It stays open for as long as the process lives.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115

    # For text that other code prints, above all a network's.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")

    warnings.showwarning = _show_warning
    # Log records of libraries go to stderr where the program has set up no logging.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Formatter())


def finish(code: int) -> int:
    """Flushes stdout and stderr. Returns the exit code: `code`, or 1 if flushing failed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            _write("", stream)
        except FileError:
            return code or 1
    return code


def _occupy_descriptor(number: int) -> None:
    """Opens the null device as this file descriptor, if it is closed."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)


def _stream(*, err: bool) -> TextIO:
    if err:
        return sys.stderr
    return _own_stdouts[-1] if _own_stdouts else sys.stdout


def _safe_text(text: str, stream: Any) -> str:
    """The text, made harmless and encodable for the stream."""
    return _encodable(printable(text), stream)


def _encodable(text: str, stream: Any) -> str:
    """The text, with escapes for characters that the stream's encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _coloured(text: str, screen: Console) -> str:
    """The text; a verdict at its beginning has a colour, where the terminal has colours."""
    word, colon, rest = text.partition(":")
    if not colon or word not in _VERDICTS or screen.no_color or screen.color_system is None:
        return text
    return f"\x1b[{_VERDICTS[word]}m{word}\x1b[0m:{rest}"


def _wrapped(text: str, width: int) -> str:
    """The text in lines of at most this width, unless a word or a command in it is longer."""
    whole = _WHOLE.sub(lambda match: match[0].replace(" ", _SPACE), text)
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    lines = textwrap.wrap(
        whole, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines).replace(_SPACE, " ")


def _write(text: str, stream: TextIO) -> None:
    """Writes and flushes a text.

    Raises:
        FileError: stdout could not be written, for another reason than a closed pipe.
    """
    try:
        if text:  # on a full disk, writing even an empty text fails
            stream.write(text)
        stream.flush()
    except OSError as error:
        _discard_rest(stream)
        if error.errno != errno.EPIPE and stream is not sys.stderr:
            raise FileError(f"The output could not be written: {error.strerror}.") from error


def _discard_rest(stream: TextIO) -> None:
    """Redirects a stream to the null device, so that Python's flush at exit does not fail again."""
    with contextlib.suppress(OSError, ValueError):  # pytest's streams have no file descriptor
        number = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,  # noqa: ARG001
) -> None:
    """Replaces `warnings.showwarning`, which prints the text of a warning unescaped."""
    if file is None:
        say(f"{filename}:{lineno}: {category.__name__}: {message}", err=True)
    else:
        file.write(f"{printable(str(message))}\n")


class _Formatter(logging.Formatter):
    """Formats a log record as one harmless line, without a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())
