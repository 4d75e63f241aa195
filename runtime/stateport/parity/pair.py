"""A model and the vectors beside it: whether the two were written together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ..errors import FileError
from ..model_file.onnx_outline import OnnxFile, read
from .vectors import Vectors

#: So much may lie between two weights in a file beside the model, whose places are rounded up.
_GAP: Final = 1 << 16
_CHUNK: Final = 1 << 20


def digest(model: Path) -> str:
    """The SHA-256 of a model: of its file, and then of the files beside it that hold its weights.

    For most models that is what `sha256sum model.onnx` says; with weights beside it, what
    `cat model.onnx model.onnx.data | sha256sum` says.

    Raises:
        FileError: a file cannot be read, or one beside the model is much larger than its weights.
    """
    file = read(model)
    total = hashlib.sha256()
    try:
        _add(total, model, file.nbytes)
        for name in file.external_files:
            _add(total, model.resolve().parent / name, _most(file, name))
    except OSError as error:
        raise FileError(f"{model} could not be read: {error.strerror or error}.") from error
    return total.hexdigest()


def remarks(model: Path, vectors: Vectors) -> tuple[str, ...]:
    """What has to be said of a model and vectors that were not written for it; mostly nothing.

    It may be wanted: the model is a variant, or some tool has rewritten it.
    """
    if not vectors.models:
        return (f"The vectors do not say which file they were recorded with: {model} or another.",)
    try:
        if digest(model) in vectors.models:
            return ()
    except FileError:
        pass  # it is not the one then; what is wrong with it, whoever loads it will say
    other = f"The vectors were recorded with another file than {model}, or it has changed since"
    return (f"{other}; it is judged by its numbers.",)


class Standing:
    """Which files stand somewhere, so that it is noticed when others take their places."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._seen = self._look()

    def check(self) -> None:
        """Checks that they are still the same.

        Raises:
            FileError: one of them has been replaced or written to.
        """
        if self._look() != self._seen:
            names = " or ".join(map(str, self._paths))
            raise FileError(f"{names} was written to while they were being read. Try again.")

    def _look(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(map(_identity, self._paths))


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):  # it is not there, or can be no file's name
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _most(file: OnnxFile, name: str) -> int:
    """How large a file with weights can be that was written for this model."""
    sizes = [weight.nbytes for weight in file.weights if weight.external == name]
    return sum(sizes) + _GAP * len(sizes)


def _add(total: hashlib._Hash, path: Path, most: int) -> None:
    if path.stat().st_size > most:
        raise FileError(f"{path} holds more than the weights of its model.")
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
