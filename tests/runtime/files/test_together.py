"""Files that belong together never stand beside those of another writer."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from stateport import FileError
from stateport.files import together, writing
from stateport.files.writing import written_atomically, written_each, written_together

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX locks and links")

NAMES = ("m.onnx", "m.onnx.data", "m.vectors")
#: A process that writes the three files over and over; its arguments are the path and a name.
WRITER = """
import sys
from pathlib import Path
from stateport.files.writing import written_together
path, name, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(rounds):
    with written_together(path) as folder:
        for part in ("m.onnx", "m.onnx.data", "m.vectors"):
            (folder / part).write_text(f"{name} {number}")
"""


def write(path: Path, text: str) -> None:
    with written_together(path) as folder:
        for name in NAMES:
            (folder / name).write_text(text)


def texts(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in NAMES if (folder / name).exists()]


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def writer(path: Path, name: str, rounds: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(rounds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_four_writers_leave_the_files_of_one(tmp_path: Path) -> None:
    processes = [writer(tmp_path / "m.onnx", str(number), 60) for number in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        start(process)
    assert [process.wait(120) for process in processes] == [0, 0, 0, 0]
    for process in processes:
        process.communicate()
    assert len(set(texts(tmp_path))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


def test_a_writer_that_is_killed_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for _ in range(3):
        process = writer(path, "killed", 10**9)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        start(process)
        while not path.exists():  # it is in the middle of its work
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        process.communicate()
        write(path, "next")
        assert texts(tmp_path) == ["next", "next", "next"]
        assert together._LOCK not in hidden(tmp_path)


# Between two lines of `with`, a file is closed by nobody but the collector, which says so.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO")
@pytest.mark.parametrize("before", [[], ["old"]], ids=["nothing", "files"])
def test_an_interruption_at_any_line_leaves_all_or_none(tmp_path: Path, before: list[str]) -> None:
    seen: set[tuple[str, ...]] = set()
    for count in range(1, 1000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for text in before:
            write(folder / "m.onnx", text)
        if not interrupted(count, folder / "m.onnx"):
            break
        found = texts(folder)
        assert len(found) in ((3,) if before else (0, 3))
        assert len(set(found)) <= 1
        seen.add(tuple(found))
        write(folder / "m.onnx", "next")  # no lock is left
        assert texts(folder) == ["next", "next", "next"]
    else:
        pytest.fail("it never came to its end")
    assert count > 100
    assert seen == {tuple(before * 3), ("new", "new", "new")}


def interrupted(count: int, path: Path) -> bool:
    """Whether writing was interrupted, after this number of lines of the modules that write."""
    own = {writing.__file__, together.__file__}
    left = count

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in own:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        write(path, "new")
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_what_fails_between_two_renames_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "m.onnx", "old")
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name == "m.onnx" and self.read_text() == "new":
            raise OSError(5, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(FileError, match=r"m\.onnx could not be written: Input/output error"):
        write(tmp_path / "m.onnx", "new")
    assert texts(tmp_path) == ["old", "old", "old"]
    assert hidden(tmp_path) == []


def test_a_file_system_without_links_is_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "m.onnx", "old")
    test_what_fails_between_two_renames_is_undone(tmp_path, monkeypatch)


def test_a_writer_that_does_not_go_on_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "_PATIENCE", 0.0)
    with together._locked(tmp_path / together._LOCK):
        with pytest.raises(FileError, match="another process's lock"):
            write(tmp_path / "m.onnx", "new")
        assert texts(tmp_path) == []
    write(tmp_path / "m.onnx", "new")
    assert texts(tmp_path) == ["new", "new", "new"]


def test_files_in_two_folders_appear_together(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first, second = tmp_path / "a" / "y.npz", tmp_path / "s"
    with pytest.raises(FileError, match="No such file"), written_each(first, second) as (part, _):
        part.write_text("half")
    assert not first.exists()
    with written_each(first, second) as parts:
        for part in parts:
            part.write_text(part.name)
    assert (first.read_text(), second.read_text()) == ("y.npz", "s")
    with pytest.raises(FileError, match="several files at once"), written_each(first, first):
        pass


# Leftovers


OLD = 3 * 24 * 60 * 60


def aged(path: Path, seconds: float = OLD) -> Path:
    """Makes a file, or a folder and all that is in it, older."""
    for part in [*path.rglob("*"), path] if path.is_dir() else [path]:
        status = part.lstat()
        times = (status.st_atime - seconds, status.st_mtime - seconds)
        os.utime(part, times, follow_symlinks=False)
    return path


def leftover(folder: Path, name: str = ".m.onnx.a1b2_3c4.part") -> Path:
    (folder / name).mkdir()
    (folder / name / "m.onnx").write_text("half")
    return folder / name


@pytest.mark.parametrize("single", [True, False])
def test_what_a_killed_writer_left_is_removed_after_a_day(tmp_path: Path, single: bool) -> None:
    old = [aged(leftover(tmp_path)), aged(leftover(tmp_path, ".other.x0x0x0x0.part"))]
    (tmp_path / ".s.abcdefgh.part").write_text("half")
    old.append(aged(tmp_path / ".s.abcdefgh.part"))
    young = leftover(tmp_path, ".m.onnx.00000000.part")
    if single:
        with written_atomically(tmp_path / "f") as part:
            part.write_text("")
    else:
        write(tmp_path / "m.onnx", "new")
    assert not any(path.exists() for path in old)
    assert (young / "m.onnx").exists()


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    (tmp_path / ".m.onnx.linklink.part").symlink_to(precious)
    inner = leftover(tmp_path, ".m.onnx.inner000.part")
    (inner / "link").symlink_to(precious / "file")
    deep = leftover(tmp_path, ".m.onnx.deep0000.part")
    (deep / "folder").mkdir()
    fresh = leftover(tmp_path, ".m.onnx.fresh000.part")
    names = (".m.onnx.part", "m.onnx.a1b2c3d4.part", ".m.onnx.A1B2C3D4.part", ".m.a1b2c3.part")
    for name in names:
        (tmp_path / name).write_text("mine")
    for path in tmp_path.iterdir():
        aged(path)
    os.utime(fresh / "m.onnx")  # its writer is still at it
    before = sorted(tmp_path.iterdir())
    write(tmp_path / "m.onnx", "new")
    assert sorted(tmp_path.iterdir()) == sorted([*before, *(tmp_path / name for name in NAMES)])
    assert (precious / "file").read_text() == "precious"
    assert all((folder / "m.onnx").exists() for folder in (inner, deep, fresh))


# Links and modes


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    target, link = tmp_path / "real" / "x.bin", tmp_path / "links" / "m.onnx"
    link.symlink_to("../real/x.bin")
    for text in ("first", "second"):  # the first time it leads nowhere yet
        write(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
        assert texts(tmp_path / "links") == [text, text, text]
        assert hidden(tmp_path / "real") == hidden(tmp_path / "links") == []
    with written_atomically(link) as part:
        part.write_text("alone")
    assert link.is_symlink()
    assert target.read_text() == "alone"


def test_links_that_lead_to_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").symlink_to("none/file")
    (tmp_path / "d").symlink_to(tmp_path)
    (tmp_path / "e").symlink_to("/dev/null")
    for name, says in (("a", "circle"), ("c", "no folder"), ("d", "folder"), ("e", "no regular")):
        with pytest.raises(FileError, match=says):
            write(tmp_path / name, "new")
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o444])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    write(tmp_path / "m.onnx", "old")
    (tmp_path / "m.vectors").chmod(mode)
    write(tmp_path / "m.onnx", "new")
    assert stat.S_IMODE((tmp_path / "m.vectors").stat().st_mode) == mode
    with written_atomically(tmp_path / "m.vectors") as part:
        part.write_text("alone")
    assert stat.S_IMODE((tmp_path / "m.vectors").stat().st_mode) == mode


def test_a_new_file_has_the_mode_that_files_have(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "m.onnx", "new")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in NAMES}
    assert modes == {0o640}


@pytest.mark.parametrize("name", ["x" * 250, "m\udcff", "a b\n"], ids=["long", "bytes", "line"])
def test_odd_names_are_written(tmp_path: Path, name: str) -> None:
    with written_atomically(tmp_path / name) as part:
        part.write_text("new")
    assert (tmp_path / name).read_text() == "new"
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "none/file"], ids=["long", "nul", "folder"])
def test_names_that_cannot_be_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match=r"cannot be written|no file's name"):
        write(tmp_path / name, "new")
    assert hidden(tmp_path) == []


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx", "old")
    code = """
        import resource, sys
        from pathlib import Path
        from stateport import FileError
        from stateport.files.writing import written_together
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # Python ignores SIGXFSZ
        path = Path(sys.argv[1])
        try:
            with written_together(path) as folder:
                (folder / "m.vectors").write_text("new")
                (folder / path.name).write_text("x" * 5000)
        except FileError as error:
            print(error)
    """
    outcome = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "m.onnx")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert "could not be written: File too large. Nothing was left behind." in outcome.stdout
    assert texts(tmp_path) == ["old", "old", "old"]
    assert hidden(tmp_path) == []
