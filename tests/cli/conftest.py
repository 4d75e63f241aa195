"""Running the command, in this process or in a separate one, and judging how it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from stateport.cli import main

Outcome = subprocess.CompletedProcess[str]
Command = Callable[..., Outcome]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Command]:
    """Calls `stateport` with these arguments in this process, which saves importing PyTorch."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: object) -> Outcome:
        argv = ["stateport", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return Outcome(argv, stop.value.code, out, err)

    before = set(sys.modules)
    yield call
    for name in set(sys.modules) - before:  # the targets that tests wrote
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def script() -> Path:
    """The real command."""
    return Path(sys.executable).with_name("stateport")


@pytest.fixture
def process(script: Path) -> Command:
    """Runs the real command in a separate process; keywords are for `subprocess.run`."""

    def call(*arguments: object, **options: object) -> Outcome:
        line = [str(script), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        given = {"env": environment, "timeout": 120, **options}
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            line, capture_output=True, text=True, check=False, **given
        )

    return call


@pytest.fixture
def refused() -> Callable[..., None]:
    """Checks that a command ended as errors do: the exit code, one or two lines on stderr."""

    def check(outcome: Outcome, says: str = "", *, code: int = 1) -> None:
        lines = outcome.stderr.strip().splitlines()
        assert outcome.returncode == code, outcome.stderr
        assert "Traceback" not in outcome.stderr
        assert "bug in stateport" not in outcome.stderr
        assert says in outcome.stderr
        assert outcome.stdout == ""
        if code == 2:
            assert lines[0].startswith("Usage: stateport")
            assert lines[-1].startswith("Error: ")
        else:
            assert 1 <= len(lines) <= 2
            assert lines[0].startswith("Error: ")

    return check


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, which has to be as empty after the test."""
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture
def x(tmp_path: Path) -> Path:
    """An input for the reference network, `x.npy`: (2, 40, 5)."""
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((2, 40, 5), np.float32))
    return path
