# SPDX-License-Identifier: Apache-2.0
"""Digests: of a model, whose states are no other model's, and of the inputs of a step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np

from ..contract import Contract
from ..files.paths import file_beside, opened
from ..model_file.onnx_outline import read
from .request import Array

_BLOCK = 1 << 20


def digest_of(path: str | PathLike[str], contract: Contract) -> str:
    """The digest of a model: 64 hexadecimal digits (BLAKE2b).

    It covers the contract, every byte of the file, and the files beside it that hold weights. So
    two exports of one network differ, unless the files are equal.

    Raises:
        FileError: a file cannot be read.
    """
    file = Path(path)
    digest = hashlib.blake2b(contract.to_json().encode(), digest_size=32)
    beside = [file_beside(file, name) for name in read(file).external_files]
    for part in (file, *beside):
        digest.update(_digest_of_file(part))
    return digest.hexdigest()


def digest_of_inputs(inputs: Mapping[str, Array]) -> bytes:
    """The digest of a step's inputs: 16 bytes (BLAKE2b), over names, dtypes, shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(inputs):
        array = inputs[name]
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _digest_of_file(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    with opened(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()
