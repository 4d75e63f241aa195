"""Text that came from a file, made harmless for terminals, build logs and reports.

The names in a model file are anybody's text. A terminal takes control characters for commands, a
build server takes `::error::` at the start of a line for one, and a line break puts it there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

#: Characters that Unicode counts as letters or marks, and that nobody sees.
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
#: What build servers read as a command. GitHub: `::error::` at the start of a line, which may come
#: from a line that is cut in two; names in C++ have `::` too, and stay. GitHub's older form, Azure
#: and TeamCity: `##[error]`, `##vso[...]`, `##teamcity[...]`, anywhere in a line.
_COMMAND: Final = re.compile(
    r"##|(?<!\w)::|::(?=error|warning|notice|debug|group|endgroup|echo|[a-z]+-)", re.IGNORECASE
)


def printable(text: str) -> str:
    r"""The text on one line, with an escape such as `\x1b` for each character that nobody sees.

    Escaped are control characters, line breaks, characters that change the direction of writing or
    have no width, spaces other than the usual one, lone surrogates, and what Unicode has not
    assigned. The second sign of `::` and `##` is escaped where a build server would take it for
    the beginning of a command. Nothing else is changed: the result is its own `printable`.
    """
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    text = _INVISIBLE.sub(lambda match: ascii(match[0])[1:-1], text)
    return _COMMAND.sub(lambda match: f"{match[0][0]}\\x{ord(match[0][1]):02x}", text)


def json_text(document: Any) -> str:
    r"""A document as JSON of ASCII alone, without a line break at the end.

    What `printable` escapes is escaped in JSON's own way, so that the text is harmless and its
    reader gets every character back. An infinite number is the string "inf".
    """
    text = json.dumps(_plain(document), indent=1, allow_nan=False)
    # Both signs occur in strings only, and none of them behind a single backslash.
    return _COMMAND.sub(lambda match: f"{match[0][0]}\\u{ord(match[0][1]):04x}", text)


def _plain(value: Any) -> Any:
    """With strings for what JSON has no numbers for."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else str(value)
