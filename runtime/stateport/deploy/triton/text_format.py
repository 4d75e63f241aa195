# SPDX-License-Identifier: Apache-2.0
"""Protocol Buffers' text format, in which Triton's configurations are written.

https://protobuf.dev/reference/protobuf/textformat-spec/ is the specification. It is read without
`google.protobuf`: the messages of Triton's configuration come with Triton's client alone, whose
requirements exclude the versions of protobuf that `onnx` needs. Extensions and `Any` do not occur
in configurations, and are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ...errors import FileError
from ...picking import instances_of
from ...shown import shown

_TOKEN: Final = re.compile(
    r"""\s+|\#[^\n]*
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>-?\s*(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?))
    |(?P<sign>[-{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))")
_LETTERS: Final = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ENDS: Final = {"{": "}", "<": ">"}
#: Messages within messages; a configuration has four.
_DEEPEST: Final = 32


@dataclass(frozen=True)
class Message:
    """One message: its fields in the order of the text, each name with all its values.

    A number or a word is kept as it is written; a quoted text is kept without its quotes.
    """

    fields: dict[str, list[str | Message]] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        """The last value of a field that is no message."""
        texts = instances_of(str, self.fields.get(name, ()))
        return texts[-1] if texts else default

    def texts(self, name: str) -> list[str]:
        """All values of a field that are no messages."""
        return instances_of(str, self.fields.get(name, ()))

    def messages(self, name: str) -> list[Message]:
        """All values of a field that are messages."""
        return instances_of(Message, self.fields.get(name, ()))

    def message(self, name: str) -> Message | None:
        """The last value of a field that is a message; None where there is none."""
        values = self.messages(name)
        return values[-1] if values else None


def parse(text: str, name: str) -> Message:
    """Reads a text.

    Args:
        text: the text.
        name: what errors call it: the file's path.

    Raises:
        FileError: it is not in the text format; the message names the line.
    """
    return _Reader(text, name).message("", 0)


def quoted(text: str) -> str:
    """A text as a value, in quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r") + '"'


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int


class _Reader:
    """Reads tokens, one ahead."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._tokens = self._split(text)
        self._next = next(self._tokens)

    def message(self, end: str, depth: int) -> Message:
        """The fields up to the sign that ends the message; "" for the end of the text."""
        if depth > _DEEPEST:
            raise self._error(f"more than {_DEEPEST} messages are within one another")

        fields: dict[str, list[str | Message]] = {}
        while self._next.text != end or self._next.kind == "string":
            if self._next.kind != "word":
                raise self._error("the name of a field was expected")
            name = self._take().text
            fields.setdefault(name, []).extend(self._values(depth))
            if self._next.text in (",", ";") and self._next.kind == "sign":
                self._take()
        self._take()
        return Message(fields)

    def _values(self, depth: int) -> list[str | Message]:
        """What follows the name of a field: one value, or a list of values."""
        has_colon = self._is_sign(":")
        if has_colon:
            self._take()

        if not self._is_sign("["):
            return [self._value(depth, plain=has_colon)]

        self._take()
        values = []
        while not self._is_sign("]"):
            values.append(self._value(depth, plain=True))
            if self._is_sign(","):
                self._take()
            elif not self._is_sign("]"):
                raise self._error("a comma or ']' was expected")
        self._take()
        return values

    def _value(self, depth: int, *, plain: bool) -> str | Message:
        """One value; without a colon before it, only a message is one."""
        if self._next.text in _ENDS and self._next.kind == "sign":
            return self.message(_ENDS[self._take().text], depth + 1)
        if not plain:
            raise self._error("a colon or '{' was expected")

        if self._next.kind == "string":
            parts = []
            while self._next.kind == "string":  # texts beside one another are one text
                parts.append(_unescaped(self._take().text[1:-1]))
            return "".join(parts)
        if self._is_sign("-"):
            self._take()
            return f"-{self._take().text}"  # -inf
        if self._next.kind in ("number", "word"):
            return "".join(self._take().text.split())
        raise self._error("a value was expected")

    def _is_sign(self, sign: str) -> bool:
        return self._next.kind == "sign" and self._next.text == sign

    def _take(self) -> _Token:
        token = self._next
        self._next = next(self._tokens, token)
        return token

    def _split(self, text: str) -> Iterator[_Token]:
        position, line = 0, 1
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise FileError(
                    f"{self._name}, line {line}: {shown(text[position : position + 20])} is not in "
                    "the text format of Protocol Buffers. Correct the line."
                )
            if match.lastgroup is not None:
                yield _Token(match.lastgroup, match[0], line)
            line += match[0].count("\n")
            position = match.end()
        yield _Token("end", "", line)

    def _error(self, expected: str) -> FileError:
        came = shown(self._next.text) if self._next.kind != "end" else "the end of the file"
        return FileError(
            f"{self._name}, line {self._next.line}: {came} came; {expected}. Correct the line."
        )


def _unescaped(text: str) -> str:
    """A quoted text with its escapes replaced."""

    def letter(match: re.Match[str]) -> str:
        octal, hexadecimal, other = match.groups()
        if octal is not None:
            return chr(int(octal, 8) & 255)
        if hexadecimal is not None:
            return chr(int(hexadecimal, 16))
        return _LETTERS.get(other, other)

    return _ESCAPE.sub(letter, text)
