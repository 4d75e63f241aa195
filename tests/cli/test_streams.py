"""Stdout that is closed, full, read no further, or of another encoding: never a traceback."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bare import written

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")

Shell = Callable[..., "subprocess.CompletedProcess[str]"]

NAME = "é日.onnx"


@pytest.fixture
def shell(script: Path, tmp_path: Path) -> Shell:
    """Runs `stateport ARGUMENTS REDIRECTION` in a shell, whose last line is the exit code."""

    def call(arguments: str, redirection: str = "", **environment: str) -> object:
        code = f"{shlex.quote(str(script))} {arguments} {redirection}"
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {code}"],  # noqa: S607
            capture_output=True,
            text=True,
            encoding="latin-1",
            check=False,
            timeout=120,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        )

    return call  # type: ignore[return-value]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file whose name only some encodings have."""
    return written(tmp_path / NAME, {"h0": "hn"})


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-", "| true", "2>&1 | true"])
@pytest.mark.parametrize(
    ("arguments", "code"), [(f"inspect {NAME}", 0), ("inspect none.onnx", 1), ("inspect -x", 2)]
)
def test_a_stream_that_nobody_reads_changes_no_exit_code(
    shell: Shell, model: Path, arguments: str, code: int, redirection: str
) -> None:
    outcome = shell(arguments, redirection)
    assert "Traceback" not in outcome.stderr
    assert "Exception ignored" not in outcome.stderr
    assert outcome.returncode == code


def test_a_verdict_that_nobody_reads_is_one(shell: Shell, reference: Path, tmp_path: Path) -> None:
    for path in (reference, reference.with_name(f"{reference.stem}.vectors.safetensors")):
        shutil.copy(path, tmp_path / path.name.replace(reference.stem, "m"))
    outcome = shell("verify m.onnx --report r.json", "| true")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert (tmp_path / "r.json").is_file()


def test_the_numbers_of_closed_streams_are_taken_by_no_file(
    shell: Shell, reference: Path, x: Path
) -> None:
    # Otherwise the first file to be opened is number 1, and whoever prints writes into it.
    outcome = shell(f"run {reference} -i x={x} -o y.npz --state-out s", "<&- >&- 2>&-")
    assert outcome.returncode == 0
    assert (x.with_name("y.npz")).read_bytes()[:2] == b"PK"
    assert shell(f"run {reference} -i x={x} --state-in s").returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_in_a_line(shell: Shell, model: Path) -> None:
    outcome = shell(f"inspect {NAME}", "> /dev/full")
    assert outcome.returncode == 1
    assert outcome.stderr == "Error: The output could not be written: No space left on device.\n"
    assert shell(f"inspect {NAME}", "2> /dev/full").returncode == 0


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("ascii", r"\xe9\u65e5.onnx"), ("cp1252", "\xe9\\u65e5.onnx"), ("cp437", "\x82\\u65e5.onnx")],
)
def test_what_an_encoding_lacks_is_escaped(
    shell: Shell, model: Path, encoding: str, name: str
) -> None:
    good = shell(f"inspect {NAME}", PYTHONIOENCODING=encoding)
    assert (good.returncode, good.stderr) == (0, "")
    assert name in good.stdout
    bad = shell(f"inspect no{NAME}", PYTHONIOENCODING=encoding)
    assert bad.returncode == 1
    assert bad.stderr.startswith(f"Error: no{name} could not be read")


def test_the_plain_locale_of_c(shell: Shell, model: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    outcome = shell(f"inspect {NAME}", **plain)
    assert outcome.returncode == 0
    assert r"\udcc3\udca9" in outcome.stdout


def test_a_name_that_is_no_text(shell: Shell, model: Path, tmp_path: Path) -> None:
    os.rename(model, os.fsencode(tmp_path) + b"/b\xff.onnx")  # noqa: PTH104
    for options in ("", "--json"):
        outcome = shell(f"inspect b?.onnx {options}")
        assert (outcome.returncode, outcome.stderr) == (0, "")
        assert r"b\udcff.onnx" in outcome.stdout
