# SPDX-License-Identifier: Apache-2.0
"""Makes text from files harmless for terminals, build logs and reports.

Anybody may have written the names in a model file. A terminal executes control characters. A build
server executes `::error::` at the start of a line, and a line break in a name can put it there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

#: Invisible characters that Unicode classifies as letters or marks.
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
#: What build servers execute. GitHub: `::error::` at the start of a line, also where a long line is
#: wrapped. `::` inside a name of C++ is left alone. GitHub's older form, Azure and TeamCity:
#: `##[error]`, `##vso[...]`, `##teamcity[...]`, anywhere in a line.
_COMMAND: Final = re.compile(
    r"##|(?<!\w)::|::(?=error|warning|notice|debug|group|endgroup|echo|[a-z]+-)", re.IGNORECASE
)


def printable(text: str) -> str:
    r"""The text on one line, with an escape such as `\x1b` for each invisible character.

    These characters are escaped: control characters, line breaks, characters that change the
    direction of writing or have no width, spaces other than U+0020, lone surrogates, and code
    points that Unicode has not assigned. The second character of `::` and `##` is escaped where a
    build server would see the start of a command. Nothing else changes, and applying the function
    again changes nothing.
    """
    if not text.isprintable():
        text = "".join(map(_visible, text))
    text = _INVISIBLE.sub(lambda match: _escape(match[0]), text)
    return _COMMAND.sub(lambda match: f"{match[0][0]}\\x{ord(match[0][1]):02x}", text)


def json_text(document: Any) -> str:
    r"""A document as JSON text in ASCII, without a line break at the end.

    The characters that `printable` escapes are escaped as JSON does, so that the text is harmless
    and a reader gets every character back. An infinite number becomes the string "inf".
    """
    text = json.dumps(_json_value(document), indent=1, allow_nan=False)
    # `::` and `##` occur only inside strings, and never after a single backslash.
    return _COMMAND.sub(lambda match: f"{match[0][0]}\\u{ord(match[0][1]):04x}", text)


def _visible(character: str) -> str:
    return character if character.isprintable() else _escape(character)


def _escape(character: str) -> str:
    r"""The character as Python writes it in ASCII: `\x1b`, `\u200b`."""
    return ascii(character)[1:-1]


def _json_value(value: Any) -> Any:
    """The value with strings in place of everything that JSON has no type for."""
    if isinstance(value, Mapping):
        return {str(name): _json_value(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [*map(_json_value, value)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str | int | float | None):
        return value
    return str(value)
