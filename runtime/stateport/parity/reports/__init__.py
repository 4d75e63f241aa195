# SPDX-License-Identifier: Apache-2.0
"""One matrix of verdicts, written for programs, build servers, reviewers and browsers."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Final

from ...errors import FileError
from ...files.writing import written_atomically
from ..matrix import Matrix

#: A file's ending -> the module here whose `render` gives its text.
_FORMS: Final = {".json": "document", ".xml": "junit", ".md": "markdown", ".html": "page"}
ENDINGS: Final = tuple(_FORMS)


def write(matrix: Matrix, path: Path) -> None:
    """Writes a report in the form that the file's ending asks for.

    Raises:
        FileError: the ending is unknown, or the file cannot be written.
    """
    if path.suffix not in _FORMS:
        raise FileError(f"{path} has an unknown ending; reports end in {', '.join(ENDINGS)}.")
    text: str = importlib.import_module(f".{_FORMS[path.suffix]}", __name__).render(matrix)
    with written_atomically(path) as part:
        part.write_text(text, encoding="utf-8")
