# SPDX-License-Identifier: Apache-2.0
"""Reads JSON, safetensors, .npy and .npz files from outside, and checks their form and their size.

Nothing is ever unpickled. What the contents mean is checked by the caller.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, TypeVar

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from ..errors import FileError, first_line, why_not
from ..shown import shown
from .paths import opened

_T = TypeVar("_T")

#: The most bytes of a JSON text. Those that stateport writes have some hundred thousand.
MOST_JSON: Final = 16 << 20
#: The deepest nesting of lists and objects in a JSON text.
DEEPEST: Final = 64
#: The most dimensions of an array: NumPy before 2.0 takes no more.
MOST_DIMENSIONS: Final = 32

_MOST_DIGITS: Final = 20  # all integers of 64 bits
_MOST_ELEMENTS: Final = 1 << 58  # of 16 bytes each, what NumPy can count
#: The most bytes of all arrays in one .npz file.
_MOST_UNPACKED: Final = 1 << 32
#: zlib's deflate makes at most 1032 bytes of one; bzip2 and LZMA more, of which only few are read.
_MOST_COMPRESSION: Final = 1 << 13
_LEAST_SIZE: Final = 1 << 16
#: A string in JSON, or the rest of the file where a string does not end.
_TEXT: Final = re.compile(r'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
#: safetensors' names of dtypes that NumPy has -> NumPy's.
_DTYPES: Final = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32",
    "F64": "float64",
}  # fmt: skip


def parse_json(text: str, *, finite: bool = True) -> Any:
    """The value of a JSON text.

    Args:
        text: the text.
        finite: whether NaN, Infinity and numbers beyond float64 are refused. They are no JSON, but
            Python writes and reads them.

    Raises:
        ValueError: it is no JSON, too long, nested too deeply, names a key twice, or contains an
            integer of more than 64 bits.
    """
    if len(text) > MOST_JSON:
        raise ValueError(f"it has more than {MOST_JSON} characters")
    if _depth(text) > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")

    document = json.loads(
        text,
        object_pairs_hook=_parse_object,
        parse_int=_parse_integer,
        parse_float=_parse_finite if finite else None,
        parse_constant=_refuse_constant if finite else None,
    )
    if "\\ud" in text.lower():
        # Encoding fails on one half of a surrogate pair, which is no character.
        json.dumps(document, ensure_ascii=False).encode()

    return document


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        FileError: the file cannot be read.
        ValueError: as `parse_json`, or it is not UTF-8.
    """
    with opened(path) as file:
        content = file.read(MOST_JSON + 1)
    return parse_json(content.decode())


def _depth(text: str) -> int:
    """The deepest nesting of lists and objects, without parsing; 0 if it cannot exceed `DEEPEST`.

    It is right up to the first syntax error.
    """
    if text.count("[") + text.count("{") <= DEEPEST:
        return 0

    characters = np.frombuffer(_TEXT.sub("", text).encode(errors="replace"), np.uint8)
    steps = np.zeros(len(characters), np.int8)
    for opening, closing in (b"[]", b"{}"):
        steps[characters == opening] = 1
        steps[characters == closing] = -1
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"it names the key {shown(twice)} twice")
    return entries


def _parse_integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it holds an integer of {len(digits)} digits")
    return int(digits)


def _parse_finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {shown(digits)} is too large")
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


#: Types as a person calls them.
_KINDS: Final[dict[type, str]] = {
    bool: "the truth value",
    dict: "the object",
    float: "the number",
    int: "the whole number",
    list: "the list",
    str: "the text",
}


def value_of(entry: Any, key: str, kind: type[_T]) -> _T:
    """The value under a key of a JSON object.

    Raises:
        ValueError: `entry` is no object, or has no value of that type under the key.
    """
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{_KINDS.get(kind, kind.__name__)} {key!r} is missing in {shown(entry)}")
    return value


def texts_of(entry: Any, key: str) -> dict[str, str]:
    """The object of texts under a key of a JSON object; raises like `value_of`."""
    texts = value_of(entry, key, dict)
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{key} says {shown(text)} of {shown(name)}; a text was expected")
    return texts


def check_shape(shape: Iterable[object]) -> None:
    """Refuses a shape that no array can have.

    Raises:
        ValueError: too many dimensions, a size that is none, or more elements than can be counted.
    """
    sizes = [*shape]
    if len(sizes) > MOST_DIMENSIONS:
        raise ValueError(f"{len(sizes)} dimensions; an array has at most {MOST_DIMENSIONS}")

    elements = 1
    for size in sizes:
        if type(size) is not int or not 0 <= size < 1 << 63:
            raise ValueError(f"a dimension of {shown(size)}; a size was expected")
        elements *= max(size, 1)

    if elements > _MOST_ELEMENTS:
        raise ValueError(f"the shape {shown(sizes)}; no array has that many elements")


class Header(NamedTuple):
    """The header of a safetensors file.

    Attributes:
        arrays: by name, the dtype, by safetensors' own name such as "F32", and the shape.
        metadata: the texts that the writer added, by name.
    """

    arrays: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header of a safetensors file, without the arrays.

    Raises:
        FileError: the file cannot be read, or its header is none.
    """
    with opened(path) as file:
        return _read_header(file, str(path))


def _read_header(file: IO[bytes], source: str) -> Header:
    length = int.from_bytes(file.read(8), "little")
    if length > MOST_JSON:
        raise FileError(
            f"{source} is not a safetensors file: its header claims to have {length} bytes."
        )
    content = file.read(length)

    try:
        return _parse_header(parse_json(content.decode()))
    except ValueError as error:
        reason = first_line(error)
        raise FileError(f"{source} is not a safetensors file: in its header, {reason}.") from error


def _parse_header(document: Any) -> Header:
    if not isinstance(document, dict):
        raise ValueError("there is no object")

    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("the metadata are no texts")

    arrays = {name: _parse_entry(name, entry) for name, entry in document.items()}
    return Header(arrays, metadata)


def _parse_entry(name: str, entry: Any) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape of one array."""
    if not isinstance(entry, dict):
        raise ValueError(f"{shown(name)} is no object")

    dtype = entry.get("dtype")
    shape = entry.get("shape")
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise ValueError(f"{shown(name)} has no dtype and shape")

    try:
        check_shape(shape)
    except ValueError as error:
        raise ValueError(f"{shown(name)} has {error}") from error
    return dtype, tuple(shape)


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a safetensors file by name, and its metadata.

    Raises:
        FileError: the file cannot be read, is not whole, or has a dtype that NumPy lacks.
    """
    header = read_header(path)
    _check_dtypes(header, str(path))
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            # Only the names that were checked are read: the file may have been replaced since.
            arrays = {name: file.get_tensor(name) for name in header.arrays}
    except OSError as error:
        raise FileError(f"{path} could not be read: {why_not(error)}.") from error
    except safetensors.SafetensorError as error:
        reason = first_line(error)
        raise FileError(f"{path} is not a safetensors file: {reason}.") from error

    return arrays, header.metadata


def parse_arrays(content: bytes, source: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays and the metadata in the content of a safetensors file.

    Args:
        content: the content.
        source: what it is, as the subject of a message.

    Raises:
        FileError: the content is no safetensors file, is cut off, or has a dtype that NumPy
            lacks.
    """
    header = _read_header(BytesIO(content), source)
    _check_dtypes(header, source)
    try:
        arrays = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        reason = first_line(error)
        raise FileError(f"{source} is not a safetensors file: {reason}.") from error

    return arrays, header.metadata


def _check_dtypes(header: Header, source: str) -> None:
    for name, (dtype, _) in header.arrays.items():
        if dtype not in _DTYPES:
            raise FileError(
                f"{source} holds {shown(name)} as {shown(dtype)}, which NumPy has no numbers for; "
                f"{', '.join(_DTYPES)} are read."
            )


def read_npy(path: str | PathLike[str]) -> NDArray[Any]:
    """Reads one array of numbers from a .npy file.

    Raises:
        FileError: the file cannot be read, is cut off, contains anything but numbers, or several
            arrays, or is no .npy.
    """
    with opened(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of literals in a header
        if file.read(4) == b"PK\x03\x04":
            raise FileError(f"{path} holds several arrays; a .npy file with one was expected.")

        file.seek(0)
        try:
            _check_npy(file, os.fstat(file.fileno()).st_size)
            file.seek(0)
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, EOFError, MemoryError) as error:
            raise FileError(
                f"{path} is not a plain .npy file ({error}). Pickles and Python objects are never "
                "loaded; save an array of numbers with numpy.save."
            ) from error
    return array


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of numbers in an .npz file, by name.

    The format is a zip archive of .npy files:
    https://numpy.org/doc/stable/reference/generated/numpy.savez.html

    Raises:
        FileError: the file cannot be read, is cut off, holds anything but arrays of numbers, or
            more than 4 GiB of them.
    """
    with opened(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of literals in a header
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                _check_members(members)

                arrays = {}
                for member in members:
                    arrays[member.filename.removesuffix(".npy")] = _read_member(archive, member)
                return arrays
        except (
            Exception
        ) as error:  # a broken archive makes zipfile and its decoders fail in any way
            raise FileError(
                f"{path} is not a plain .npz file ({error}). Pickles and Python objects are never "
                "loaded; save arrays of numbers with numpy.savez."
            ) from error


def _check_members(members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuses an archive with other files than .npy, two of one name, or more than fits."""
    names = Counter(member.filename for member in members)
    for name, count in names.items():
        if not name.endswith(".npy"):
            raise ValueError(f"it holds {shown(name)}, where .npy files were expected")
        if count > 1:
            raise ValueError(f"it holds {shown(name)} twice")

    unpacked = sum(member.file_size for member in members)
    if unpacked > _MOST_UNPACKED:
        raise ValueError(f"it unpacks to {unpacked} bytes, where {_MOST_UNPACKED} at most are read")
    for member in members:
        if member.file_size > _MOST_COMPRESSION * member.compress_size + _LEAST_SIZE:
            raise ValueError(f"{shown(member.filename)} claims more bytes than it can hold")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One array of an .npz file."""
    with archive.open(member) as file:
        _check_npy(file, member.file_size)
    with archive.open(member) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _check_npy(file: IO[bytes], size: int) -> None:
    """Refuses a .npy file with anything but numbers, or with fewer than its header promises.

    `size` is the number of bytes of the whole file.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        read_array_header = np.lib.format.read_array_header_1_0
    elif version == (2, 0):
        read_array_header = np.lib.format.read_array_header_2_0
    else:  # 3.0 is for records whose fields have Unicode names
        raise ValueError(f"it has version {version[0]}.{version[1]}, where 1.0 or 2.0 is read")

    try:
        shape, _, dtype = read_array_header(file)
    except Exception as error:  # NumPy parses it as a Python literal, which fails in many ways
        raise ValueError(f"its header: {type(error).__name__}: {shown(str(error))}") from error

    check_shape(shape)
    if dtype.kind not in "biufc":
        raise ValueError(f"it holds {shown(dtype)}, where numbers were expected")

    promised = math.prod(shape) * dtype.itemsize
    present = size - file.tell()
    if promised > present:
        raise ValueError(f"it says that it has {promised} bytes of numbers, and has {present}")
