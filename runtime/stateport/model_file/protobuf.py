# SPDX-License-Identifier: Apache-2.0
"""Protocol Buffers' wire format (https://protobuf.dev/programming-guides/encoding/)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

# Wire types say how a field is encoded: as a number, as bytes after their length, or as a fixed
# number of bytes.
_VARINT: Final = 0
_FIXED_LENGTHS: Final = {1: 8, 5: 4}
_BYTES: Final = (2, *_FIXED_LENGTHS)


class MalformedError(Exception):
    """The bytes do not follow the format."""


class Fields:
    """The fields of one message, in order, as (number, value) pairs."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def __iter__(self) -> Iterator[tuple[int, int | memoryview]]:
        # Files have millions of fields. Nearly all numbers take one byte, which is read here
        # without a call.
        data, at, end = self._data, 0, len(self._data)
        while at < end:
            key = data[at]
            at += 1
            if key >= 0x80:
                key, at = varint(data, at - 1)
            if key < 8:
                raise MalformedError("a field has the number zero")

            # The value is the number itself, or the length of the bytes that follow.
            wire = key & 7
            fixed_length = _FIXED_LENGTHS.get(wire)
            if fixed_length is not None:
                value = fixed_length
            elif at < end and data[at] < 0x80:
                value = data[at]
                at += 1
            else:
                value, at = varint(data, at)

            if wire == _VARINT:
                yield key >> 3, value
                continue

            if wire not in _BYTES:
                raise MalformedError(f"a field has the unknown wire type {wire}")
            if value > end - at:
                raise MalformedError(f"a field claims {value} bytes where {end - at} are left")

            at += value
            yield key >> 3, data[at - value : at]


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    value = 0
    for shift, byte in zip(range(0, 70, 7), data[at : at + 10], strict=False):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at + shift // 7 + 1
    raise MalformedError("a number does not end, or is too long")


def bytes_of(value: int | memoryview) -> memoryview:
    """The bytes of a field that is a text or a message."""
    if isinstance(value, int):
        raise MalformedError("a number is where a text or a message should be")
    return value


def int_of(value: int | memoryview) -> int:
    """A field as a signed integer of 64 bits."""
    if not isinstance(value, int):
        raise MalformedError("a message is where a number should be")
    return value - (1 << 64) if value >= 1 << 63 else value


def text_of(value: int | memoryview) -> str:
    """A field as a text."""
    try:
        return str(bytes_of(value), "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("a name is not UTF-8") from error


def ints_of(value: int | memoryview, most: int) -> list[int]:
    """The integers of one field of a repeated integer.

    A field has one integer, or several that are packed; of these the first `most` are read.
    """
    if isinstance(value, int):
        return [int_of(value)]

    numbers: list[int] = []
    at = 0
    while at < len(value) and len(numbers) < most:
        number, at = varint(value, at)
        numbers.append(int_of(number))
    return numbers


def entry_of(value: int | memoryview) -> tuple[str, str]:
    """The key and the value of a StringStringEntryProto."""
    key = text = ""
    for number, content in Fields(bytes_of(value)):
        if number == 1:
            key = text_of(content)
        elif number == 2:
            text = text_of(content)
    return key, text
