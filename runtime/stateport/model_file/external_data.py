# SPDX-License-Identifier: Apache-2.0
"""External data: weights of an ONNX file that are stored in another file beside it.

https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import FileError
from ..files.paths import file_beside, opened
from ..shown import shown

#: The most external files of one ONNX file; the largest models have some thousand.
_MOST_FILES: Final = 10_000


class Span(NamedTuple):
    """The bytes of one weight, from `offset` up to `end`, in the file `name` beside the model."""

    name: str
    offset: int
    end: int


def span_of(entries: Mapping[str, str], nbytes: int, *, exact: bool) -> Span:
    """The bytes of a weight, from the entries of its `external_data`.

    Args:
        entries: "location", and optionally "offset" and "length".
        nbytes: the number of bytes by its dtype and shape.
        exact: whether `nbytes` is known to be right.

    Raises:
        ValueError: an offset or a length is no number of bytes, or the length is not `nbytes`.
    """
    offset = _read_number(entries, "offset", 0)
    length = _read_number(entries, "length", nbytes if exact else 0)
    if exact and length != nbytes:
        raise ValueError(f"{nbytes} bytes, but a length of {length}")
    return Span(entries.get("location", ""), offset, offset + length)


def _read_number(entries: Mapping[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default

    if not (text.isascii() and text.isdigit() and len(text) <= 19):  # up to 2**63
        raise ValueError(f"the {key} {shown(text)}; a number of bytes was expected")
    return int(text)


def check_external(path: Path, ends: Mapping[str, int]) -> None:
    """Checks the external files of an ONNX file.

    Args:
        path: the ONNX file.
        ends: by the name of an external file, the least number of bytes that it must have.

    Raises:
        FileError: a file is outside the folder of the ONNX file, does not exist, or is too short.
    """
    if len(ends) > _MOST_FILES:
        raise FileError(
            f"{path} keeps weights in {len(ends)} files; {_MOST_FILES} at most are read."
        )

    for name, end in ends.items():
        size = _file_size(path, name)
        if size < end:
            raise FileError(
                f"{path} keeps weights in {shown(name)}, which has {size} bytes where {end} are "
                "needed. It may be cut off; copy the files together."
            )


def _file_size(path: Path, name: str) -> int:
    """The size in bytes of an external file of an ONNX file."""
    try:
        return file_beside(path, name).stat().st_size
    except ValueError as error:
        raise FileError(
            f"{path} keeps weights in {shown(name)}, which {error}. Its external data must "
            "stand beside it: copy the files together, or export it again."
        ) from error
    except OSError as error:
        raise FileError(f"{path} keeps weights in {shown(name)}: {error.strerror}.") from error


def read_span(path: Path, span: Span, nbytes: int) -> bytes:
    """The first `nbytes` bytes of a weight in an external file.

    Raises:
        FileError: the file cannot be read.
    """
    try:
        target = file_beside(path, span.name)
    except ValueError as error:
        raise FileError(f"{path} keeps weights in {shown(span.name)}, which {error}.") from error

    with opened(target) as file:
        file.seek(span.offset)
        return file.read(nbytes)
