"""Files appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from stateport import FileError
from stateport.files.writing import written_atomically, written_together


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with written_atomically(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert names(tmp_path) == ["file.txt"]
    assert path.read_text() == "new"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write(path, RuntimeError())
    assert names(tmp_path) == ["file.txt"]
    assert path.read_text() == "old"


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "file.txt", KeyboardInterrupt())
    assert names(tmp_path) == []


def test_an_error_of_the_system_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"file\.txt could not be written: No space"):
        write(tmp_path / "file.txt", OSError(28, "No space left on device"))
    assert names(tmp_path) == []


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    with written_together(tmp_path / "b.onnx") as folder:
        write_three(folder)
        assert not names(tmp_path, hidden=False)
    assert names(tmp_path) == THREE


def test_none_of_them_appears_when_one_cannot(tmp_path: Path) -> None:
    (tmp_path / "c.vectors").mkdir()  # a file cannot take a folder's place
    with (
        pytest.raises(FileError, match="could not be written"),
        written_together(tmp_path / "b.onnx") as folder,
    ):
        write_three(folder)
    assert names(tmp_path) == ["c.vectors"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a folder"):
        write(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no folder"):
        write(tmp_path / "none" / "file.txt")


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written"):
        write(tmp_path / "file" / "file.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"  # like a device: /dev/null must survive `-o /dev/null`
    os.mkfifo(pipe)
    with pytest.raises(FileError):
        write(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


THREE = ["a.data", "b.onnx", "c.vectors"]


def write(path: Path, error: BaseException | None = None) -> None:
    """Writes a file, and fails half-way if there is an error to fail with."""
    with written_atomically(path) as part:
        part.write_text("half")
        if error is not None:
            raise error


def write_three(folder: Path) -> None:
    for name in THREE:
        (folder / name).write_text(name)


def names(folder: Path, *, hidden: bool = True) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if hidden or not p.name.startswith("."))
