"""Completion in a shell, and the help that it stands beside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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
        ("stateport verify mod", "file,mod"),
        ("stateport verify m.onnx --report re", "file,re"),
    ],
)
def test_bash_completes(
    command: Command, monkeypatch: pytest.MonkeyPatch, words: str, expected: str
) -> None:
    monkeypatch.setenv("_STATEPORT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    assert expected in command().stdout.splitlines()


COMMANDS = re.findall(
    r"^\| (\w+)[^|]* \| `(.+)` \|$",
    (Path(__file__).parents[2] / "docs" / "completion.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def test_the_page_has_a_command_for_every_shell() -> None:
    assert [shell for shell, _ in COMMANDS] == ["bash", "zsh", "fish"]


@pytest.mark.parametrize(("shell", "line"), COMMANDS)
def test_the_commands_of_the_page_make_a_script(
    script: Path, tmp_path: Path, shell: str, line: str
) -> None:
    """The lines for bash and zsh write a line that their next start evaluates."""
    (tmp_path / ".config" / "fish" / "completions").mkdir(parents=True)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    def run(code: str) -> str:
        outcome = subprocess.run(
            ["bash", "-c", code],  # noqa: S607
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert outcome.stderr == ""
        return outcome.stdout

    assert run(line) == ""
    if shell == "fish":
        made = (tmp_path / ".config" / "fish" / "completions" / "stateport.fish").read_text()
    else:
        (start,) = (tmp_path / f".{shell}rc").read_text().splitlines()
        made = run(start.removeprefix("eval ").replace('"$(', "").removesuffix(')"'))
    assert "_stateport_completion" in made
    assert f"_STATEPORT_COMPLETE={shell}_complete" in made
    if shell == "bash":
        asked = f"{start}; complete -p stateport"
        assert run(asked) == "complete -o nosort -F _stateport_completion stateport\n"


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
        " COMP_WORDS='stateport export --ops')\n"
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
