"""Files that take their places together: written aside, then moved, all of them or none.

A writer makes a folder beside the place, `.NAME.xxxxxxxx.part`, and writes there. When it is done,
`swap` moves the files under a lock, one rename each; what goes wrong between two renames is undone.
A writer that is killed leaves its folder behind, which a later one removes.
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
except ImportError:  # Windows: writers of one path are not kept apart there
    fcntl = None  # type: ignore[assignment]

#: Held by whoever moves several files in a folder. It is there only for that time.
_LOCK: Final = ".stateport.lock"
#: So long a writer waits for another one, which needs milliseconds; in seconds.
_PATIENCE: Final = 60.0
#: File systems that have no such locks say one of these.
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_LETTERS: Final = f"{string.ascii_lowercase}{string.digits}_"
_PART: Final = re.compile(r"\..+\.[a-z0-9_]{8}\.part", re.DOTALL)
#: Leftovers are of writers that were killed when they are so old, in seconds.
_OLD: Final = 24 * 60 * 60
#: So many names of a folder are looked at for leftovers: a folder of states may have millions.
_LOOKED_AT: Final = 2000

#: A file that was written, and the place that it is for. Both are on one file system.
Move = tuple[Path, Path]


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A folder beside the place of a file, to write in; it is gone afterwards."""
    _clean(target.parent)
    # The name is known before the folder is there, so that no interruption can lose it.
    name = os.fsdecode(os.fsencode(target.name)[:200])
    token = "".join(secrets.choice(_LETTERS) for _ in range(8))
    folder = target.parent / f".{name}.{token}.part"
    try:
        folder.mkdir(0o700)
        yield folder
    finally:
        try:
            _remove(folder)
        except BaseException:  # a second interruption, or the first
            _remove(folder)
            raise


def swap(moves: Sequence[Move]) -> None:
    """Moves files to their places, in this order: all of them, or none whatever happens.

    A file that takes another one's place takes its mode, too. Between two renames there is a
    moment in which files of two writers stand side by side; whoever is killed there leaves them so.

    Raises:
        OSError: a file cannot be moved.
        FileError: another process holds the lock and does not go on.
    """
    for part, target in moves:
        if target.exists():
            part.chmod(stat.S_IMODE(target.stat().st_mode) & 0o777)
    if len(moves) < 2:
        for part, target in moves:
            part.replace(target)
        return
    lock = moves[-1][1].with_name(_LOCK)
    # A file closes itself and so lets go of the lock, also where an exception comes in between.
    with _locked(lock):
        try:
            _swap_all(moves)
        finally:
            with contextlib.suppress(OSError):
                lock.unlink()


def _swap_all(moves: Sequence[Move]) -> None:
    kept = _kept(moves)
    try:
        for part, target in moves:
            part.replace(target)
    except BaseException:
        _put_back(moves, kept)
        raise


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for file in [*folder.iterdir()]:
            file.unlink()
        folder.rmdir()


def _kept(moves: Sequence[Move]) -> list[Path | None]:
    """Second names for the files that will be replaced; None where there is none."""
    kept: list[Path | None] = []
    for number, (part, target) in enumerate(moves):
        old = part.with_name(f".{number}.old")
        if not target.exists():
            kept.append(None)
            continue
        try:
            os.link(target, old)
        except OSError:  # a file system without links, or somebody else's file
            shutil.copy2(target, old)
        kept.append(old)
    return kept


def _put_back(moves: Sequence[Move], kept: Sequence[Path | None]) -> None:
    for (part, target), old in zip(moves, kept, strict=True):
        if part.exists():  # it was not moved yet
            continue
        if old is None:
            target.unlink(missing_ok=True)
        else:
            old.replace(target)


def _locked(path: Path) -> IO[bytes]:
    """Takes the lock, as soon as nobody has it; the file that comes is to be closed.

    The lock is the system's own, on a file that its holder removes. It ends with the process.
    """
    patience = time.monotonic() + _PATIENCE
    while True:
        file = None
        try:
            file = _opened(path)
            if file is not None and _is_taken(file) and _is_still(file, path):
                return file
        except BaseException:
            if file is not None:
                file.close()
            raise
        if file is not None:
            file.close()
        if time.monotonic() > patience:
            raise FileError(
                f"{path} has been another process's lock for {_PATIENCE:g} s; moving a few files "
                "takes milliseconds. Find that process, or remove the file if there is none."
            )
        time.sleep(0.005)


def _opened(path: Path) -> IO[bytes] | None:
    """The lock's file, or None where it is another user's."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return open(path, "r+b", 0, opener=lambda name, _: os.open(name, flags, 0o666))
    except PermissionError:
        return None


def _is_taken(file: IO[bytes]) -> bool:
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


def _is_still(file: IO[bytes], path: Path) -> bool:
    """Whether the file is the one of that name: its last holder may have removed it since."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _clean(folder: Path) -> None:
    """Removes what writers left who were killed more than a day ago."""
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
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with os.scandir(opened) as entries:
            found = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        whole = all(stat.S_ISREG(status.st_mode) for status in found.values())
        if whole and all(map(_is_old, [os.fstat(opened), *found.values()])):
            for name in found:
                os.unlink(name, dir_fd=opened)
            path.rmdir()
    finally:
        os.close(opened)


def _is_old(status: os.stat_result) -> bool:
    """Whether it is this user's, and nobody has written to it for a day."""
    return status.st_uid == os.geteuid() and time.time() - status.st_mtime > _OLD
