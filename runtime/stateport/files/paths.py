# SPDX-License-Identifier: Apache-2.0
"""Paths that come from outside, which are checked before they are used."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Final

from ..errors import FileError, why_not
from ..shown import shown
from ..suggestions import did_you_mean

#: What Linux and macOS take: bytes of a name between two slashes, and of a whole path.
_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 4095
#: The most entries of a folder that are looked at for a similar name.
_MOST_ENTRIES: Final = 10_000


def usable_path(path: str | PathLike[str]) -> Path:
    """The path, if a file can have this name.

    Raises:
        FileError: it is no text, contains a character that no path can contain, or is too long.
    """
    try:
        usable = Path(path)
        encoded = os.fsencode(usable)
    except TypeError as error:
        raise FileError(
            f"{shown(path)} is no path; a text or a pathlib.Path was expected."
        ) from error
    except UnicodeEncodeError as error:
        raise FileError(
            f"{shown(str(path))} can be no file's name: it is no Unicode text."
        ) from error

    if b"\0" in encoded:
        raise FileError(f"{shown(str(path))} can be no file's name: it holds a NUL character.")

    longest = max(map(len, encoded.split(b"/")))
    if longest > _LONGEST_NAME or len(encoded) > _LONGEST_PATH:
        raise FileError(
            f"{shown(str(path))} can be no file's name: it is longer than {_LONGEST_NAME} bytes "
            f"between two slashes, or than {_LONGEST_PATH} in all."
        )

    return usable


@contextlib.contextmanager
def opened(path: str | PathLike[str], what: str = "a file") -> Iterator[BufferedReader]:
    """Opens a regular file for reading.

    Pipes and devices are refused: they can make a reader wait, or read, for ever.

    Args:
        path: the file.
        what: the kind of file that is expected, for messages: "an ONNX file".

    Raises:
        FileError: there is no such file, it is a folder, a pipe or a device, or cannot be read.
    """
    usable = usable_path(path)
    try:
        mode = usable.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise FileError(f"{usable} is {kind}; {what} was expected.")

        with usable.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise FileError(
            f"{usable} could not be read: {error.strerror}.{_similar_file(usable)}"
        ) from error
    except OSError as error:
        raise FileError(f"{usable} could not be read: {why_not(error)}.") from error


def _similar_file(path: Path) -> str:
    """A sentence with the file of the same folder whose name is most like this one's."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, _MOST_ENTRIES)]
    except OSError:
        return ""
    return did_you_mean(path.name, [name for name in names if _is_like(path, Path(name))])


def _is_like(path: Path, other: Path) -> bool:
    """Whether names are alike in more than their ending."""
    return path.suffix != other.suffix or bool(did_you_mean(path.stem, [other.stem]))


def file_beside(file: Path, name: str) -> Path:
    """The file that another file names, in the folder of that file or below.

    If `file` is a link, it is followed: the files that it names are beside the real file.

    Raises:
        ValueError: the name is no file's, leads out of the folder, also by a link, or there is no
            such file. The message continues a sentence after the name: "lies outside its own
            folder".
    """
    try:
        folder = file.resolve().parent
        usable = usable_path(name)
        target = (folder / usable).resolve()
        inside = not usable.is_absolute() and target.is_relative_to(folder)
        present = inside and target.is_file()
    except (FileError, OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise ValueError("can be no file's name") from error

    if not inside:
        raise ValueError("lies outside its own folder")
    if not present:
        raise ValueError("is not there")
    return target
