"""External data: weights that an ONNX file keeps in a file beside it.

https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import FileError
from ..files.paths import file_beside, opened
from ..shown import shown

#: Files beside one ONNX file; the largest models have some thousand.
_MOST_FILES: Final = 10_000


class Span(NamedTuple):
    """The bytes of one weight: the file that an ONNX file names, from where and up to where."""

    name: str
    offset: int
    end: int


def span_of(entries: Mapping[str, str], nbytes: int, *, exact: bool) -> Span:
    """Where a weight of so many bytes lies, from the entries of its `external_data`.

    Args:
        entries: "location", and where they are not left out "offset" and "length".
        nbytes: the bytes that its dtype and shape say.
        exact: whether these are known to be right.

    Raises:
        ValueError: an offset or a length is no number of bytes, or not that of the weight.
    """
    offset = _number(entries, "offset", 0)
    length = _number(entries, "length", nbytes if exact else 0)
    if exact and length != nbytes:
        raise ValueError(f"{nbytes} bytes, and is said to lie in {length}")
    return Span(entries.get("location", ""), offset, offset + length)


def _number(entries: Mapping[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19):  # up to 2**63
        raise ValueError(f"the {key} {shown(text)}; a number of bytes was expected")
    return int(text)


def check_external(path: Path, ends: Mapping[str, int]) -> None:
    """Holds the files that an ONNX file names against what is there.

    Args:
        path: the ONNX file.
        ends: how many bytes each file has to have, at least.

    Raises:
        FileError: a file lies outside the folder of the ONNX file, is not there, or too short.
    """
    if len(ends) > _MOST_FILES:
        raise FileError(
            f"{path} keeps weights in {len(ends)} files; {_MOST_FILES} at most are read."
        )
    for name, end in ends.items():
        try:
            size = file_beside(path, name).stat().st_size
        except ValueError as error:
            raise FileError(
                f"{path} keeps weights in {shown(name)}, which {error}. Its external data must "
                "stand beside it: copy the files together, or export it again."
            ) from error
        except OSError as error:
            raise FileError(f"{path} keeps weights in {shown(name)}: {error.strerror}.") from error
        if size < end:
            raise FileError(
                f"{path} keeps weights in {shown(name)}, which has {size} bytes where {end} are "
                "needed. It may be cut off; copy the files together."
            )


def read_span(path: Path, span: Span, nbytes: int) -> bytes:
    """The bytes of a weight, those and no others.

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
