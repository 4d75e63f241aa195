"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import FileError


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Gives a place to write a file to, and moves it to `path` at the end.

    When the body raises, whatever stood at `path` is untouched and nothing is left behind.

    Raises:
        FileError: the folder does not exist or cannot be written, or the disk is full.
    """
    with written_together(path) as folder:
        yield folder / path.name


@contextlib.contextmanager
def written_together(path: Path) -> Iterator[Path]:
    """Like `written_atomically`, for files that belong together.

    Gives a folder to write to; at the end everything in it moves to where `path` stands, `path`
    itself last, so that whoever finds it finds the others.
    """
    _check_place(path)
    if not path.parent.is_dir():
        raise FileError(f"{path} cannot be written: there is no folder {path.parent}. Create it.")
    try:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        try:
            yield folder
            parts = sorted(folder.iterdir(), key=lambda part: part.name == path.name)
            for part in parts:
                _check_place(path.parent / part.name)
            for part in parts:
                part.replace(path.parent / part.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise FileError(
            f"{path} could not be written: {error.strerror or error}. Nothing was left behind."
        ) from error


def _check_place(path: Path) -> None:
    """A file may replace a file, but no folder, device or pipe."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise FileError(f"{path} could not be written: it is {kind}. Give the name of a file.")
