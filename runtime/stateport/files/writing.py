"""Files that are written: they appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FileError
from .paths import usable_path
from .together import Move, staging, swap


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Gives a place to write a file to, and moves it to `path` at the end.

    When the body raises, whatever stood at `path` is untouched and nothing is left behind. Where
    `path` is a symbolic link, it stays one, and the file that it leads to is replaced. A file that
    is replaced keeps its mode.

    Raises:
        FileError: the folder does not exist or cannot be written, or the disk is full.
    """
    with written_each(path) as (part,):
        yield part


@contextlib.contextmanager
def written_each(*paths: Path) -> Iterator[list[Path]]:
    """Like `written_atomically`, for several files that appear together, wherever they are."""
    if not paths:
        yield []
        return
    targets = [_checked(path) for path in paths]
    if len({*targets}) < len(targets):
        raise FileError(f"{paths[-1]} stands for several files at once. Give each another name.")
    with _told(paths[-1]), contextlib.ExitStack() as stack:
        parts = [
            stack.enter_context(staging(target)) / path.name
            for path, target in zip(paths, targets, strict=True)
        ]
        yield parts
        swap(list(zip(parts, targets, strict=True)))


@contextlib.contextmanager
def written_together(path: Path) -> Iterator[Path]:
    """Like `written_atomically`, for files that belong together and stand beside one another.

    Gives a folder to write to. At the end everything in it moves to where `path` stands, `path`
    itself last, so that whoever finds it finds the others. Several writers of one path do so one
    after the other.
    """
    target = _checked(path)
    with _told(path), contextlib.ExitStack() as stack:
        folder = stack.enter_context(staging(target))
        yield folder
        parts = sorted(folder.iterdir(), key=lambda part: part.name == path.name)
        swap([_move(part, path.with_name(part.name), stack) for part in parts])


def check_place(path: Path) -> None:
    """Checks, before any work is done, that a file may be written there.

    Raises:
        FileError: there is no such folder, nobody may write there, or something else than a file
            has that name.
    """
    usable_path(path)
    _checked(path)


def _checked(path: Path) -> Path:
    """Where the file is written that a path names: there, or where a symbolic link leads."""
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # fails for what can be no name, where `exists` just says no
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        if target.is_symlink():
            raise FileError(f"{path} is a circle of symbolic links. Give another name.")
        if not target.parent.is_dir():
            raise FileError(
                f"{path} cannot be written: there is no folder {target.parent}. Create it."
            )
        if target.exists() and not target.is_file():
            kind = "a folder" if target.is_dir() else "no regular file"
            raise FileError(f"{path} could not be written: it is {kind}. Give the name of a file.")
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise FileError(
                f"{path} could not be written: Permission denied in the folder {target.parent}."
            )
    except ValueError as error:  # a NUL
        raise FileError(f"{str(path)!r} can be no file's name: {error}.") from error
    except OSError as error:  # a name that is too long
        raise FileError(f"{path} cannot be written: {error.strerror or error}.") from error
    return target


def _move(part: Path, path: Path, stack: contextlib.ExitStack) -> Move:
    """How a file gets to its path; where a link leads elsewhere, by way of a copy beside that."""
    target = _checked(path)
    if not target.parent.samefile(part.parent.parent):
        aside = stack.enter_context(staging(target)) / part.name
        shutil.copyfile(part, aside)
        part = aside
    return part, target


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Makes an error of the system one of stateport."""
    try:
        yield
    except OSError as error:
        raise FileError(
            f"{path} could not be written: {error.strerror or error}. Nothing was left behind."
        ) from error


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays to a .npz file, whatever their names; numpy.savez keeps some for itself."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
