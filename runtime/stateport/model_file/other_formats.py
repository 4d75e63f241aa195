# SPDX-License-Identifier: Apache-2.0
"""Recognises files of other formats that are passed in place of an ONNX file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Final

from ..errors import FileError
from ..files.paths import opened

_EXPORT: Final = "Export its network with `stateport export`, and pass the ONNX file."
_PACK: Final = "Unpack it, and pass the ONNX file."
_ARRAYS: Final = "Pass the model's ONNX file; arrays go where the inputs go."

#: The first bytes of a file, what it is, and what to do.
_BEGINNINGS: Final = (
    (b"\x80\x02", "a pickle, as older versions of PyTorch wrote checkpoints", _EXPORT),
    (b"\x89HDF", "an HDF5 file, as Keras writes networks", "Convert the network to ONNX first."),
    (b"version https://git-lfs", "a pointer of Git LFS", "Fetch the file itself: git lfs pull."),
    (b"GGUF", "a GGUF file", "Convert the network to ONNX first."),
    (b"\x93NUMPY", "an array of NumPy", _ARRAYS),
    (b"\x1f\x8b", "a gzip archive", _PACK),
    (b"<?xml", "an XML file, as OpenVINO writes networks", "Pass the ONNX file it was made from."),
    (b"<!DOCTYPE", "a web page", "Download the file itself."),
    (b"<html", "a web page", "Download the file itself."),
)
#: The same from the fifth byte on, where FlatBuffers keep their identifier.
_IDENTIFIERS: Final = (
    (b"ORTM", "a file of ONNX Runtime's own format", "Pass the ONNX file it was made from."),
    (b"TFL3", "a TensorFlow Lite file", "Convert the network to ONNX first."),
)


def other_format(path: Path) -> str | None:
    """What a file is that is not ONNX, and what to do; None where its format is not known.

    The text goes on after the file's name: "is a PyTorch checkpoint, ...".
    """
    try:
        with opened(path) as file:
            start = file.read(64)
    except FileError:
        return None

    if start.startswith(b"PK\x03\x04"):
        return _zip_format(path)
    for beginning, kind, advice in _BEGINNINGS:
        if start.startswith(beginning):
            return _sentence(kind, advice)
    for identifier, kind, advice in _IDENTIFIERS:
        if start[4:8] == identifier:
            return _sentence(kind, advice)
    if start[8:10] == b'{"':
        return _sentence("a safetensors file: weights, a state or vectors", _EXPORT)
    return None


def _zip_format(path: Path) -> str:
    """The format of a zip archive, from the names in it. Nothing is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return _sentence("a zip archive that is cut off", "Copy it again.")

    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        return _sentence("a TorchScript network", _EXPORT)
    if "data.pkl" in inner:
        return _sentence("a PyTorch checkpoint", _EXPORT)
    if any(name.endswith(".npy") for name in names):
        return _sentence("an archive of NumPy's arrays", _ARRAYS)
    return _sentence("a zip archive", _PACK)


def _sentence(kind: str, advice: str) -> str:
    return f"is {kind}; an ONNX file was expected. {advice}"
