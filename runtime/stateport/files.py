"""Files that are written: they appear whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FileError
from .paths import usable_path


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
    check_place(path)
    try:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        try:
            yield folder
            parts = sorted(folder.iterdir(), key=lambda part: part.name == path.name)
            for part in parts:
                check_place(path.parent / part.name)
            for part in parts:
                part.replace(path.parent / part.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise FileError(
            f"{path} could not be written: {error.strerror or error}. Nothing was left behind."
        ) from error


def check_place(path: Path) -> None:
    """Checks, before any work is done, that a file may be written there.

    Raises:
        FileError: there is no such folder, or something else than a file has that name.
    """
    usable_path(path)
    if not path.parent.is_dir():
        raise FileError(f"{path} cannot be written: there is no folder {path.parent}. Create it.")
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise FileError(f"{path} could not be written: it is {kind}. Give the name of a file.")


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays to a .npz file, whatever their names; numpy.savez keeps some for itself."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
