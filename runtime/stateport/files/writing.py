# SPDX-License-Identifier: Apache-2.0
"""Writing files so that they appear complete or not at all."""

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

from ..errors import FileError, why_not
from .paths import usable_path
from .together import Move, staging, swap


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to, and moves the file to `path` at the end.

    If the body raises, the file at `path` is untouched and nothing is left behind. If `path` is a
    symbolic link, it stays one, and its target is replaced. A file that is replaced keeps its mode.

    Raises:
        FileError: the folder does not exist or cannot be written, or the disk is full.
    """
    with written_each(path) as (part,):
        yield part


@contextlib.contextmanager
def written_each(*paths: Path) -> Iterator[list[Path]]:
    """Like `written_atomically`, for several files that appear together, in any folders."""
    if not paths:
        yield []
        return

    targets = [*map(_checked_target, paths)]
    if len({*targets}) < len(targets):
        raise FileError(
            f"{paths[-1]} is the path of several files at once. Give each another name."
        )

    with _as_file_error(paths[-1]), contextlib.ExitStack() as stack:
        parts = []
        for path, target in zip(paths, targets, strict=True):
            folder = stack.enter_context(staging(target))
            parts.append(folder / path.name)

        yield parts
        swap(list(zip(parts, targets, strict=True)))


@contextlib.contextmanager
def written_together(path: Path) -> Iterator[Path]:
    """Like `written_atomically`, for files that belong together and are in one folder.

    Gives a temporary folder to write to. At the end every file in it moves to the folder of `path`,
    `path` itself last, so that the other files exist whenever it does. Several writers of one path
    move their files one after the other.
    """
    target = _checked_target(path)
    with _as_file_error(path), contextlib.ExitStack() as stack:
        folder = stack.enter_context(staging(target))
        yield folder
        parts = sorted(folder.iterdir(), key=lambda part: part.name == path.name)
        swap([_plan_move(part, path.with_name(part.name), stack) for part in parts])


def check_place(path: Path) -> None:
    """Checks, before any work is done, that a file may be written there.

    Raises:
        FileError: there is no such folder, the folder cannot be written to, or something else than
            a file has that name.
    """
    usable_path(path)
    _checked_target(path)


def _checked_target(path: Path) -> Path:
    """The path that is written to: `path`, or the target of a symbolic link."""
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # raises for an impossible name, where `exists` returns False
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        _check_target(path, target)
    except ValueError as error:  # a NUL
        raise FileError(f"{str(path)!r} can be no file's name: {error}.") from error
    except OSError as error:  # a name that is too long
        raise FileError(f"{path} cannot be written: {why_not(error)}.") from error
    return target


def _check_target(path: Path, target: Path) -> None:
    """Refuses a target that no file can be written to; `path` leads there."""
    if target.is_symlink():
        raise FileError(f"{path} is a circle of symbolic links. Give another name.")
    if not target.parent.is_dir():
        raise FileError(f"{path} cannot be written: there is no folder {target.parent}. Create it.")

    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "no regular file"
        raise FileError(f"{path} could not be written: it is {kind}. Give the name of a file.")

    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise FileError(
            f"{path} could not be written: Permission denied in the folder {target.parent}."
        )


def _plan_move(part: Path, path: Path, stack: contextlib.ExitStack) -> Move:
    """The move of a file to its path; if a link leads to another folder, of a copy beside that."""
    target = _checked_target(path)
    if not target.parent.samefile(part.parent.parent):
        copy = stack.enter_context(staging(target)) / part.name
        shutil.copyfile(part, copy)
        part = copy
    return part, target


@contextlib.contextmanager
def _as_file_error(path: Path) -> Iterator[None]:
    """Turns an error of the operating system into a FileError."""
    try:
        yield
    except OSError as error:
        raise FileError(
            f"{path} could not be written: {why_not(error)}. Nothing was left behind."
        ) from error


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays to a .npz file, under any names; numpy.savez reserves some names."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
