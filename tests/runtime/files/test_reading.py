"""JSON, safetensors and .npy of somebody else: read where they are sound, refused in words."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stateport import FileError
from stateport.files.reading import (
    DEEPEST,
    MOST_DIMENSIONS,
    check_shape,
    parse_json,
    read_arrays,
    read_header,
    read_npy,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nested more than"),
        ('{"a":' * 100_000, "nested more than"),
        ('{"a": 1, "a": 2}', "names the key 'a' twice"),
        ('{"b": {"a": 1, "a": 2}}', "names the key 'a' twice"),
        ("9" * 5000, "an integer of 5000 digits"),
        ("1e999", "too large"),
        ("NaN", "is no number in JSON"),
        ("-Infinity", "is no number in JSON"),
        ('"\\ud800"', "surrogates"),
        ("{", "Expecting"),
        ("", "Expecting"),
    ],
)
def test_json_that_is_unsound_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize(
    "value",
    [
        "[" * 500,  # brackets within a text are no lists
        {"a": '"[[[[' * 100, "b": ["\\", '\\"']},
        [[[[1, -2.5e300, None, True, 2**63]]]],
        "\U0001f600",
    ],
)
def test_json_that_is_sound_is_read(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    "shape",
    [[1] * (MOST_DIMENSIONS + 1), [-1], [2**63], [2**40, 2**40], [1.5], [True], ["3"], [None]],
)
def test_a_shape_that_no_array_has_is_refused(shape: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"dimension|elements"):
        check_shape(shape)


def test_a_shape_that_an_array_has_is_taken() -> None:
    check_shape([])
    check_shape([0, 2**40, 3])
    check_shape([1] * MOST_DIMENSIONS)


def safetensors_file(path: Path, header: str | bytes, data: bytes = b"") -> Path:
    """A file in safetensors' format, whatever its header says."""
    content = header if isinstance(header, bytes) else header.encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"\xff\xfe",
        "[]",
        "[" * 1000,
        '{"a": 1}',
        '{"a": {"dtype": "F32", "shape": "3"}}',
        '{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [9223372036854775808], "data_offsets": [0, 4]}}',
        json.dumps({"a": {"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]}}),
        '{"__metadata__": {"a": 1}}',
        '{"__metadata__": []}',
    ],
)
def test_a_safetensors_header_that_is_unsound_is_refused(header: str, tmp_path: Path) -> None:
    path = safetensors_file(tmp_path / "a.safetensors", header, bytes(4))
    with pytest.raises(FileError, match="is not a safetensors file"):
        read_header(path)


@pytest.mark.parametrize(
    ("dtype", "shape", "offsets", "data"),
    [
        ("F32", [2], [0, 8], b"\0" * 4),  # cut off
        ("F32", [2], [0, 4], b"\0" * 8),  # less than the shape says
        ("F32", [2], [0, 8], b"\0" * 12),  # more than anything claims
        ("F32", [2], [8, 0], b"\0" * 8),
        ("BF16", [2], [0, 4], b"\0" * 4),  # no dtype of NumPy's
        ("F8_E4M3", [2], [0, 2], b"\0" * 2),
        ("Z9", [2], [0, 2], b"\0" * 2),
    ],
)
def test_arrays_that_are_not_whole_are_refused(
    dtype: str, shape: list[int], offsets: list[int], data: bytes, tmp_path: Path
) -> None:
    header = {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}
    path = safetensors_file(tmp_path / "a.safetensors", json.dumps(header), data)
    with pytest.raises(FileError):
        read_arrays(path)


def npy_file(path: Path, header: str, data: bytes = b"", version: bytes = b"\1\0") -> Path:
    """A file in NumPy's format, whatever its header says."""
    path.write_bytes(
        b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode() + data
    )
    return path


def describe(dtype: str, shape: str) -> str:
    """The header of an array."""
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    "header",
    [
        "[" * 500 + "]" * 500,
        "(" * 5000,
        "",
        "{}",
        "9" * 6000,
        "__import__('os').system('true')",
        describe("'<f4'", "(-1,)"),
        describe("'<f4'", "(1000000000000,)"),
        describe("'<f4'", "(99999999999999999999999,)"),
        describe("'<f4'", "(" + "1," * 70 + ")"),
        describe("'|O'", "(1,)"),
        describe("'<U4'", "(1,)"),
        describe("'|S4'", "(1,)"),
        describe("'<M8[s]'", "(1,)"),
        describe("'<m8[s]'", "(1,)"),
        describe("[('a', '<f4'), ('b', '<f4')]", "(1,)"),
        describe("'|V16'", "(1,)"),
        describe("'nonsense'", "(1,)"),
    ],
)
def test_an_npy_file_that_is_unsound_is_refused(header: str, tmp_path: Path) -> None:
    path = npy_file(tmp_path / "a.npy", header, bytes(16))
    with pytest.raises(FileError, match=r"a\.npy"):
        read_npy(path)


def test_an_npy_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = npy_file(tmp_path / "a.npy", describe("'<f4'", "(5,)"), bytes(16))
    with pytest.raises(FileError, match="20 bytes of numbers, and has 16"):
        read_npy(path)


def test_several_arrays_are_refused_in_place_of_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(FileError, match="holds several arrays"):
        read_npy(tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i8", "|b1", "<c8", "<f2"])
def test_an_npy_file_that_is_sound_is_read(dtype: str, tmp_path: Path) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    np.save(tmp_path / "a.npy", np.asfortranarray(array))
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), array)


@pytest.mark.parametrize("dtype", ["F32", "F33"])
def test_a_name_of_thousands_of_characters_is_shortened(tmp_path: Path, dtype: str) -> None:
    entry = {"dtype": dtype, "shape": [2], "data_offsets": [3, 1]}
    header = json.dumps({"a" * 9000: entry}).encode()
    path = tmp_path / "long.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(FileError) as error:
        read_arrays(path)
    assert len(str(error.value)) < 1500
