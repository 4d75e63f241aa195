# SPDX-License-Identifier: Apache-2.0
"""A model and the vectors beside it: whether the two were written together."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Final

from ..contract import PRECISION_KEY
from ..errors import FileError, why_not
from ..model_file.onnx_outline import OnnxFile, read
from ..precision import BUDGETS
from .vectors import Vectors

#: By the dtype of narrow weights, their bits, and the signal-to-noise ratio of such files.
_NARROW: Final = {
    "int8": (8, BUDGETS["int8"]),
    "uint8": (8, BUDGETS["int8"]),
    "float16": (16, BUDGETS["float16"]),
    "bfloat16": (16, BUDGETS["bfloat16"]),
}
#: The most bytes between two weights in an external file: writers align the weights.
_GAP: Final = 1 << 16
#: The bytes that are hashed at a time.
_CHUNK: Final = 1 << 20


def digest(model: Path) -> str:
    """The SHA-256 of a model: of its file, followed by the external files with its weights.

    For most models this is the output of `sha256sum model.onnx`; with external weights, of
    `cat model.onnx model.onnx.data | sha256sum`.

    Raises:
        FileError: a file cannot be read, or an external file is much larger than its weights.
    """
    file = read(model)
    total = hashlib.sha256()
    try:
        _hash_file(total, model, file.nbytes)
        for name in file.external_files:
            _hash_file(total, model.resolve().parent / name, _largest_size(file, name))
    except OSError as error:
        raise FileError(f"{model} could not be read: {why_not(error)}.") from error
    return total.hexdigest()


def remarks(model: Path, vectors: Vectors) -> tuple[str, ...]:
    """A note if the vectors were not recorded with this model; mostly none.

    It is no error: the model may be a variant, or a tool may have rewritten it.
    """
    if not vectors.models:
        return (f"The vectors do not say which file they were recorded with: {model} or another.",)

    try:
        if digest(model) in vectors.models:
            return ()
    except FileError:
        pass  # it is another file then; loading it reports what is wrong with it

    note = f"The vectors were recorded with another file than {model}, or it has changed since"
    return (f"{note}; it is judged by its numbers.",)


def narrow_weights(model: Path) -> tuple[str, ...]:
    """A note if most weights are 8 or 16 bits wide, and the file does not say its precision.

    Other tools' quantisers and converters to float16 write such files from ours. They fail by the
    floor of float32.
    """
    file = read(model)
    if PRECISION_KEY in file.metadata:
        return ()

    elements: Counter[str] = Counter()
    for weight in file.weights:
        elements[weight.dtype] += prod(weight.shape)
    narrow = {dtype: count for dtype, count in elements.items() if dtype in _NARROW}
    wide = elements["float32"] + elements["float64"]
    if not narrow or sum(narrow.values()) <= wide:
        return ()

    dtype = max(narrow, key=narrow.__getitem__)
    bits, budget = _NARROW[dtype]
    note = (
        f"Most weights of {model} are {dtype}, {bits} bits wide, but its metadata have no "
        f"{PRECISION_KEY}, so that it is judged as a file in float32. A bound for such a file is "
        f"a signal-to-noise ratio: --snr {budget:g} (snr={budget:g})."
    )
    return (note,)


class Standing:
    """Notices when files are replaced or written to."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._identities = self._read_identities()

    def check(self) -> None:
        """Checks that the files are still the same.

        Raises:
            FileError: one of them has been replaced or written to.
        """
        if self._read_identities() != self._identities:
            names = " or ".join(map(str, self._paths))
            raise FileError(f"{names} was written to while they were being read. Try again.")

    def _read_identities(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(map(_identity, self._paths))


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):  # it does not exist, or can be no file's name
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _largest_size(file: OnnxFile, name: str) -> int:
    """The most bytes that an external file with the weights of this model can have."""
    sizes = [weight.nbytes for weight in file.weights if weight.external == name]
    return sum(sizes) + _GAP * len(sizes)


def _hash_file(total: hashlib._Hash, path: Path, most: int) -> None:
    if path.stat().st_size > most:
        raise FileError(f"{path} holds more than the weights of its model.")
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
