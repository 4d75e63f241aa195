# SPDX-License-Identifier: Apache-2.0
"""The names of the models that are served, as people write them."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike, fspath
from pathlib import Path

from ..errors import InputError


def named_models(texts: Iterable[str | PathLike[str]]) -> dict[str, Path]:
    """The files by their names, from texts of the form PATH or NAME=PATH.

    Raises:
        InputError: a name is empty or has a slash, or two models have one name.
    """
    models: dict[str, Path] = {}
    for text in texts:
        name, path = _named(fspath(text))
        if not name or "/" in name:
            raise InputError(
                f"The model {fspath(text)!r} has the name {name!r}; a name without a slash was "
                "expected. Pass NAME=PATH."
            )
        if name in models:
            raise InputError(
                f"Two models have the name {name!r}: {models[name]} and {path}. Give one of them "
                "another name: NAME=PATH."
            )
        models[name] = path
    return models


def _named(text: str) -> tuple[str, Path]:
    """The name and the path. A path may contain `=` behind a slash."""
    name, equals, path = text.partition("=")
    if equals and "/" not in name:
        return name, Path(path)
    return Path(text).stem, Path(text)
