# SPDX-License-Identifier: Apache-2.0
"""Compiled libraries of the engine `c`, which are kept for later processes.

Each has a name by everything that it depends on: the file and its weights, what wrote the source,
the compiler with its flags, and the processor. It appears complete or not at all.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..errors import EngineError, InputError, why_not
from ..model_file.onnx_outline import OnnxFile
from .c_compiler import Compiler

#: The variable that names the folder for libraries.
VARIABLE: Final = "STATEPORT_C_CACHE"
_PIECE: Final = 1 << 20


def cache_folder(folder: object) -> Path:
    """The folder for libraries: an option, a variable, or one in the user's cache.

    Raises:
        InputError: the option is no path.
    """
    if folder is not None and not isinstance(folder, str | os.PathLike):
        raise InputError(f"cache is {folder!r}; a path was expected.")

    chosen = folder or os.environ.get(VARIABLE)
    if chosen:
        return Path(os.fspath(chosen))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "stateport" / "c"
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "stateport" / "c"


def built_library(
    file: OnnxFile,
    source: Callable[[], str],
    *,
    writer: str,
    compiler: Compiler,
    flags: tuple[str, ...],
    folder: Path,
) -> Path:
    """The library of a file, compiled now or before.

    Args:
        file: the model's file.
        source: writes the source in C.
        writer: what writes it, and its version.
        compiler: the compiler.
        flags: its flags.
        folder: where libraries are kept; it is made if it is not there.

    Raises:
        EngineError: the folder cannot be used, or the source does not compile.
    """
    key = _key(file, "\n".join([writer, *compiler.command, compiler.version, *flags, _processor()]))
    library = folder / f"{key}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_is_ours(folder)
        if not library.is_file():
            with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as name:
                new = Path(name)
                (new / "model.c").write_text(source(), encoding="ascii")
                compiler.compile([new / "model.c"], new / "model.so", (*flags, "-shared"))
                (new / "model.so").replace(library)
    except OSError as error:
        raise EngineError(
            f"c keeps compiled libraries in {folder}, which cannot be used: {why_not(error)}. "
            f"{VARIABLE} names another folder."
        ) from error
    return library


def _check_is_ours(folder: Path) -> None:
    """Refuses a folder in which somebody else could put a library.

    Raises:
        EngineError: it belongs to somebody else, or anybody may write there.
    """
    if not hasattr(os, "geteuid"):  # Windows
        return
    status = folder.stat()
    is_open = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_uid != os.geteuid() or is_open:
        raise EngineError(
            f"c loads libraries from {folder}, and other users may write there. Give the folder to "
            f"this user alone (chmod 700), or name another one: {VARIABLE}=FOLDER."
        )


def _key(file: OnnxFile, rest: str) -> str:
    """A digest of a file, its weights beside it, and a text."""
    digest = hashlib.sha256(rest.encode())
    for path in (file.path, *(file.path.parent / name for name in file.external_files)):
        digest.update(f"{path.stat().st_size}\n".encode())
        with path.open("rb") as content:
            while piece := content.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()[:32]


def _processor() -> str:
    """The processor, as far as compilers look at it."""
    words = [platform.machine(), platform.processor(), platform.system()]
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "\n".join(words)
    for key in ("model name", "flags", "Features", "CPU part"):
        words += [line for line in text.splitlines() if line.startswith(key)][:1]
    return "\n".join(words)
