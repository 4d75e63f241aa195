# SPDX-License-Identifier: Apache-2.0
"""The options behind the question mark of a store's URL."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from ...errors import InputError
from ...shown import shown


def options_of(url: str, defaults: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """What stands before the question mark, and the options behind it.

    Raises:
        InputError: an option is none of `defaults`, or has no value.
    """
    before, _, query = url.partition("?")
    options = dict(defaults)
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise InputError(
            f"The store's options are {shown(query)}; NAME=VALUE was expected, joined by '&'."
        ) from error

    for name, value in pairs:
        if name not in defaults:
            raise InputError(
                f"The store has no option {shown(name)}; it has {', '.join(sorted(defaults))}."
            )
        options[name] = value
    return before, options


def seconds_of(name: str, text: str) -> float:
    """An option's value as a number of seconds.

    Raises:
        InputError: it is none, or not above 0.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise InputError(f"The store has {name}={shown(text)}; a number of seconds was expected.")
    return seconds
