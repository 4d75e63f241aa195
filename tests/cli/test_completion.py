"""Completion in a shell, and the help that it stands beside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

import stateport

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("stateport ver", "plain,verify"),
        ("stateport ", "plain,export"),
        ("stateport export --op", "plain,--opset"),
        ("stateport verify --at", "plain,--atol"),
        ("stateport run m.onnx --engine ort-cu", "plain,ort-cuda"),
        ("stateport export T --w", "plain,--weights"),
    ],
)
def test_bash_completes(
    command: Command, monkeypatch: pytest.MonkeyPatch, words: str, expected: str
) -> None:
    monkeypatch.setenv("_STATEPORT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    assert expected in command().stdout.splitlines()


def test_the_real_command_completes_without_pytorch(process: Command) -> None:
    environment = {
        **os.environ,
        "_STATEPORT_COMPLETE": "bash_complete",
        "COMP_WORDS": "stateport ver",
        "COMP_CWORD": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    outcome = process(env=environment)
    assert (outcome.stdout, outcome.stderr) == ("plain,verify\n", "")


def test_completing_an_option_of_the_exporter_loads_no_pytorch() -> None:
    code = (
        "import atexit, os, sys\n"
        "os.environ.update(_STATEPORT_COMPLETE='bash_complete', COMP_CWORD='2',"
        " COMP_WORDS='stateport export --op')\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        "from stateport.cli import main\n"
        "main()\n"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert outcome.stdout.splitlines() == ["plain,--opset", "False"]


def test_help_names_every_command_with_a_word_about_it(command: Command) -> None:
    outcome = command("--help")
    assert outcome.returncode == 0
    for name in ("doctor", "export", "inspect", "run", "verify"):
        assert any(
            line.split()[:1] == [name] and len(line.split()) > 3
            for line in outcome.stdout.splitlines()
        )


@pytest.mark.parametrize("name", ["doctor", "export", "inspect", "run", "verify"])
def test_every_command_has_help_and_debug(command: Command, name: str) -> None:
    outcome = command(name, "--help")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "--debug" in outcome.stdout


def test_the_version(command: Command) -> None:
    assert command("--version").stdout == f"stateport {stateport.__version__}\n"
