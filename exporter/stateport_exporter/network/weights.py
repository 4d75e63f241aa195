# SPDX-License-Identifier: Apache-2.0
"""A file of weights into a module: safetensors, or what `torch.save` wrote of plain tensors.

Nothing is unpickled but what PyTorch's `weights_only` takes, and the size of the file is checked
before that. `checkpoints.py` finds the weights in it that fit the network.
"""

from __future__ import annotations

import argparse
import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from stateport.errors import FileError, first_line
from stateport.files.paths import file_beside, opened
from stateport.files.reading import read_header, read_json, texts_of
from stateport.shown import shown

from ..errors import TargetError
from .checkpoints import fit_weights
from .loading import run_author

#: Steps of the pickle in a file of PyTorch's, which takes each in Python: a tensor has some 35.
_MOST_STEPS: Final = 500_000
#: The longest name of an object in a pickle, with its module.
_LONGEST_NAME: Final = 500
#: The pickles that a file of PyTorch before 1.6 begins with, before the numbers.
_OLD_PICKLES: Final = 5

_SAFETENSORS: Final = ".safetensors"
#: The endings of what torch.save wrote.
_TORCH: Final = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".tar")
_INDEX: Final = ".index.json"

_SAVE: Final = (
    "Save them with torch.save(module.state_dict(), file), or as .safetensors. Where you trust the "
    "file, torch.load(file, weights_only=False) reads it; save the state_dict inside it by itself."
)

# Training writes the best score as a number of NumPy, and its arguments as a Namespace. Both hold
# values and run nothing; PyTorch takes them where they are named.
_SCALAR: Final[Any] = np.float64(0).__reduce__()[0]
_HARMLESS: Final[list[Any]] = [
    argparse.Namespace,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
]


def load_weights(
    module: nn.Module, path: Path, *, key: str | None = None, prefix: str | None = None
) -> tuple[str, ...]:
    """Loads weights into the module, all of them or none, and returns what was done to them.

    Args:
        module: the network that takes them.
        path: the file: .safetensors, what torch.save wrote (.pt, .pth, .bin, .ckpt, .pth.tar), or
            the index of files with a part of the weights each (model.safetensors.index.json).
        key: where the file holds several sets of weights, the one to take, such as "ema".
        prefix: what to take from the front of the names of the file.

    Raises:
        TargetError: the file cannot be read, holds more than plain weights, or does not fit.
    """
    content = _read_weights(path)
    fit = fit_weights(content, module, str(path), key=key, prefix=prefix)

    name = type(module).__qualname__
    run_author(f"Loading {path} into {name}", lambda: module.load_state_dict(fit.weights))
    return fit.notes


def _read_weights(path: Path) -> object:
    try:
        if path.name.endswith(_INDEX):
            return _read_parts(path)
        return _read_file(path)
    except FileError as error:
        raise TargetError(str(error)) from error


def _read_file(path: Path) -> object:
    if path.suffix == _SAFETENSORS:
        return _read_safetensors(path)
    if path.name.endswith(_TORCH):
        return _read_torch(path)
    raise TargetError(
        f"{shown(str(path))} has an unknown ending; weights are read from {_SAFETENSORS}, from "
        f"{', '.join(_TORCH)}, and from an index of several files, *{_INDEX}."
    )


def _read_parts(path: Path) -> dict[str, object]:
    """Weights in several files. The index says which file has which names.

    The format is that of Hugging Face's `save_pretrained`: `{"weight_map": {name: file}}`.
    """
    try:
        names = texts_of(read_json(path), "weight_map")
    except ValueError as error:
        raise FileError(f"{path} is no index of files of weights: {error}.") from error

    parts: dict[str, dict[str, object]] = {}
    weights = {}
    for name, file in names.items():
        if file not in parts:
            parts[file] = _read_part(path, file)
        if name not in parts[file]:
            raise FileError(f"{path} says that {shown(file)} has {shown(name)}; it does not.")
        weights[name] = parts[file][name]
    return weights


def _read_part(index: Path, file: str) -> dict[str, object]:
    try:
        part = _read_file(file_beside(index, file))
    except ValueError as error:
        raise FileError(f"{index} names {shown(file)}, which {error}.") from error

    if not isinstance(part, dict):
        raise FileError(f"{index} names {shown(file)}, which holds no weights by name.")
    return part


def _read_safetensors(path: Path) -> object:
    read_header(path)
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise TargetError(
            f"{path} is not a safetensors file that PyTorch reads: {first_line(error)}."
        ) from error


def _read_torch(path: Path) -> object:
    with opened(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of pickles before it refuses them
        try:
            zipped = file.peek(4).startswith(b"PK\x03\x04")
            _check_pickles([*_pickles(file)] if zipped else [file] * _OLD_PICKLES)
            file.seek(0)
            with torch.serialization.safe_globals(_HARMLESS):
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # PyTorch's unpickler may raise anything
            raise TargetError(
                f"{path} holds no plain weights, and stateport unpickles nothing else "
                f"({_reason(error)}). {_SAVE}"
            ) from error


def _reason(error: Exception) -> str:
    """The object that PyTorch does not unpickle, or else the beginning of its message."""
    unsupported = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
    if unsupported:
        return f"it holds {unsupported[1]:.100}"
    return f"{type(error).__name__}: {shown(str(error))}"


def _pickles(file: BufferedReader) -> Iterator[bytes]:
    """The pickles in a zip file, which PyTorch stores without compression.

    Raises:
        ValueError: a part is compressed, or the parts would be larger than the file.
    """
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        are_compressed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        if are_compressed:
            raise ValueError("its parts are compressed")
        if sum(part.file_size for part in parts) > size:
            raise ValueError("its parts are larger than the file")

        for part in parts:
            if part.filename.endswith(".pkl"):
                yield archive.read(part)


def _check_pickles(pickles: Sequence[IO[bytes] | bytes]) -> None:
    """Reads pickles without running them. A file that is listed twice gives its next pickle.

    Raises:
        ValueError: they have too many steps, reserve memory for a bytearray of any size, or name
            an object by a very long name, which PyTorch searches for minutes.
    """
    steps = 0
    for pickle in pickles:
        for operator, argument, _ in pickletools.genops(pickle):
            steps += 1
            if steps > _MOST_STEPS:
                raise ValueError("its pickle is too long")
            if isinstance(argument, str) and argument.endswith(" bytearray"):
                raise ValueError("its pickle makes a bytearray")
            if operator.name == "GLOBAL" and len(str(argument)) > _LONGEST_NAME:
                raise ValueError(f"its pickle names an object by {len(str(argument))} characters")
