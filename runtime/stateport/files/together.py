# SPDX-License-Identifier: Apache-2.0
"""Files that appear together: written to a temporary folder, then moved, all of them or none.

A writer makes a folder beside the target, `.NAME.xxxxxxxx.part`, and writes there. When it is done,
`swap` moves the files under a lock, one rename each. After an error between two renames, the files
that were moved are moved back. A writer that is killed leaves its folder behind, which a later
writer removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import string
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Final

from ..errors import FileError

try:
    import fcntl
except ImportError:  # Windows, where writers of one path are not synchronized
    fcntl = None  # type: ignore[assignment]

#: The file that is locked while several files are moved in a folder. It exists only meanwhile.
_LOCK: Final = ".stateport.lock"
#: The seconds that a writer waits for another one, which needs milliseconds.
_PATIENCE: Final = 60.0
#: The errors of file systems without such locks.
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_LETTERS: Final = f"{string.ascii_lowercase}{string.digits}_"
_PART: Final = re.compile(r"\..+\.[a-z0-9_]{8}\.part", re.DOTALL)
#: The age in seconds from which on a temporary folder belongs to a writer that was killed.
_OLD: Final = 24 * 60 * 60
#: The most names of a folder that are searched for leftovers: a folder of states may have millions.
_LOOKED_AT: Final = 2000

#: A file that was written, and its target. Both are on one file system.
Move = tuple[Path, Path]


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A temporary folder beside the target of a file; it is removed at the end."""
    _remove_leftovers(target.parent)
    # The name is known before the folder exists, so that it is removed after any interruption.
    name = os.fsdecode(os.fsencode(target.name)[:200])
    token = "".join(secrets.choice(_LETTERS) for _ in range(8))
    folder = target.parent / f".{name}.{token}.part"

    try:
        folder.mkdir(0o700)
        yield folder
    finally:
        try:
            _remove_folder(folder)
        except BaseException:  # an interruption, maybe the second one
            _remove_folder(folder)
            raise


def swap(moves: Sequence[Move]) -> None:
    """Moves files to their targets, in this order: all of them, or none whatever happens.

    A file that replaces another one gets its mode, too. Between two renames, files of two writers
    are beside one another for a moment; a process that is killed then leaves them so.

    Raises:
        OSError: a file cannot be moved.
        FileError: another process has had the lock for too long.
    """
    for part, target in moves:
        if target.exists():
            part.chmod(stat.S_IMODE(target.stat().st_mode) & 0o777)

    if len(moves) < 2:
        for part, target in moves:
            part.replace(target)
        return

    lock = moves[-1][1].with_name(_LOCK)
    # Closing the file releases the lock, also after an exception anywhere.
    with _locked(lock):
        try:
            _move_all(moves)
        finally:
            with contextlib.suppress(OSError):
                lock.unlink()


def _move_all(moves: Sequence[Move]) -> None:
    backups = _back_up_targets(moves)
    try:
        for part, target in moves:
            part.replace(target)
    except BaseException:
        _move_back(moves, backups)
        raise


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for file in [*folder.iterdir()]:
            file.unlink()
        folder.rmdir()


def _back_up_targets(moves: Sequence[Move]) -> list[Path | None]:
    """Second names for the files that will be replaced; None where a target does not exist."""
    backups: list[Path | None] = []
    for number, (part, target) in enumerate(moves):
        backup = part.with_name(f".{number}.old")
        if not target.exists():
            backups.append(None)
            continue

        try:
            os.link(target, backup)
        except OSError:  # a file system without links, or another user's file
            shutil.copy2(target, backup)
        backups.append(backup)
    return backups


def _move_back(moves: Sequence[Move], backups: Sequence[Path | None]) -> None:
    for (part, target), backup in zip(moves, backups, strict=True):
        if part.exists():  # it was not moved yet
            continue

        if backup is None:
            target.unlink(missing_ok=True)
        else:
            backup.replace(target)


def _locked(path: Path) -> IO[bytes]:
    """Waits for the lock, and takes it until the file that is returned is closed.

    The lock is the operating system's, on a file that its owner removes. It ends with the process.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        file = _try_lock(path)
        if file is not None:
            return file

        if time.monotonic() > end:
            raise FileError(
                f"{path} has been another process's lock for {_PATIENCE:g} s; moving a few files "
                "takes milliseconds. Find that process, or remove the file if there is none."
            )
        time.sleep(0.005)


def _try_lock(path: Path) -> IO[bytes] | None:
    """The lock's file, locked; None if another writer has the lock."""
    file = None
    try:
        file = _open_lock(path)
        if file is not None and _lock_file(file) and _is_current(file, path):
            return file
    except BaseException:
        if file is not None:
            file.close()
        raise

    if file is not None:
        file.close()
    return None


def _open_lock(path: Path) -> IO[bytes] | None:
    """The lock's file; None if it is another user's."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return open(path, "r+b", 0, opener=lambda name, _: os.open(name, flags, 0o666))
    except PermissionError:
        return None


def _lock_file(file: IO[bytes]) -> bool:
    """Locks the file if no other process has; returns whether this process has the lock now."""
    if fcntl is None:
        return True

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_current(file: IO[bytes], path: Path) -> bool:
    """Whether the file still has that name: its last owner may have removed it since."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _remove_leftovers(folder: Path) -> None:
    """Removes the temporary folders of writers that were killed more than a day ago."""
    if os.scandir not in os.supports_fd:  # Windows
        return

    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        names = [entry.name for entry in islice(entries, _LOOKED_AT)]
        for name in filter(_PART.fullmatch, names):
            with contextlib.suppress(OSError):
                _remove_leftover(folder / name)


def _remove_leftover(path: Path) -> None:
    """Removes an old file, or a folder of old files; nothing else, and through no link."""
    if stat.S_ISREG(path.lstat().st_mode):
        if _is_old(path.lstat()):
            path.unlink()
        return

    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with os.scandir(folder) as entries:
            files = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}

        only_files = all(stat.S_ISREG(status.st_mode) for status in files.values())
        if only_files and all(map(_is_old, [os.fstat(folder), *files.values()])):
            for name in files:
                os.unlink(name, dir_fd=folder)
            path.rmdir()
    finally:
        os.close(folder)


def _is_old(status: os.stat_result) -> bool:
    """Whether a file is this user's, and was last written more than a day ago."""
    is_ours = status.st_uid == os.geteuid()
    is_stale = time.time() - status.st_mtime > _OLD
    return is_ours and is_stale
