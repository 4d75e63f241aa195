"""What no file can be called, and what is no file, is refused before it is opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import stateport
from stateport import FileError
from stateport.files.paths import file_beside, opened, usable_path

BAD = ["a\0b", "\ud800", "x" * 300, "d/" + "x" * 256, "a/" * 3000, None, 3, b"\xff\0"]


@pytest.mark.parametrize("path", BAD, ids=range(len(BAD)))
def test_what_no_file_can_be_called_is_refused(path: object) -> None:
    with pytest.raises(FileError, match=r"can be no file's name|is no path"):
        usable_path(path)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", BAD[:5], ids=range(5))
@pytest.mark.parametrize("read", [stateport.load, stateport.State.load])
def test_every_reader_refuses_it(read: object, path: str) -> None:
    with pytest.raises(FileError):
        read(path)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["x" * 255, "\u00e9" * 127, "a b", "-o", "\n"])
def test_names_that_are_unusual_are_names(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"here")
    with opened(tmp_path / name) as file:
        assert file.read() == b"here"


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in [
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "a pipe or a device"),
        (Path("/dev/zero"), "a pipe or a device"),
        (tmp_path / "none", "No such file"),
    ]:
        with pytest.raises(FileError, match=kind), opened(path):
            pass


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../up.bin", "lies outside"),
        ("sub/../../up.bin", "lies outside"),
        ("/etc/passwd", "lies outside"),
        ("out.bin", "lies outside"),
        ("sub/out.bin", "lies outside"),
        ("circle.bin", "can be no file's name|is not there"),
        ("none.bin", "is not there"),
        ("sub", "is not there"),
        (".", "is not there"),
        ("", "is not there"),
        ("a\0b", "can be no file's name"),
    ],
)
def test_a_file_names_only_what_stands_beside_it(name: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "up.bin").touch()
    (folder / "out.bin").symlink_to(tmp_path / "up.bin")
    (folder / "sub" / "out.bin").symlink_to("../../up.bin")
    (folder / "circle.bin").symlink_to("circle.bin")
    with pytest.raises(ValueError, match=message):
        file_beside(folder / "model.onnx", name)


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "w.bin").touch()
    (tmp_path / "link.bin").symlink_to("w.bin")
    assert file_beside(tmp_path / "model.onnx", "link.bin") == (tmp_path / "w.bin").resolve()
