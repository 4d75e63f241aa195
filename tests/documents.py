"""The commands and snippets that a page shows, and what it says they print."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_FENCE: Final = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
_INDENTED: Final = re.compile(r"^    (\S.*?)(?:\s+#.*)?$", re.MULTILINE)


def load_script(name: str) -> Any:
    """docs/NAME.py as a module: docs/ is a folder of pages, and no package."""
    path = Path(__file__).parents[1] / "docs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"docs_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Block:
    """One fenced block: its language and its text."""

    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(language, text) for language, text in _FENCE.findall(page)]


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Each `$ command` of a console block with the lines of output below it."""
    shown: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            shown.append((line[2:], []))
        else:
            shown[-1][1].append(line)
    return shown


def commands_not_run(page: str) -> set[str]:
    """The indented commands of a page, which the test of that page does not run."""
    outside = _FENCE.sub("", page)
    return {*_INDENTED.findall(outside)}


def environment() -> dict[str, str]:
    """This one, in which `stateport` and `python` are those that run the tests."""
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


def run_command(command: str, shown: list[str], folder: Path) -> None:
    """Runs a command, which must succeed and print the lines that the page shows."""
    result = subprocess.run(
        shlex.split(command),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, (command, result.stderr)
    for line in shown:
        assert line in result.stdout, (command, result.stdout)


def run_python(code: str, folder: Path) -> str:
    """Runs Python in a folder, and returns what it printed."""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, (code, result.stderr)
    return result.stdout


def run_sections(page: str, folder: Path) -> int:
    """Runs every block of a page whose sections are sessions, and returns how many it ran.

    A Python block that begins with a comment `# NAME.py` is a file. All other Python blocks of one
    section are one session; the block of text behind them is what they print.
    """
    count = 0
    for section in re.split(r"^## ", page, flags=re.MULTILINE):
        printed: list[str] = []
        session: list[str] = []
        for block in blocks(section):
            count += block.language != "text"
            named = re.match(r"# (\w+\.py)\n", block.text)
            if block.language == "console":
                for command, shown in commands(block.text):
                    run_command(command, shown, folder)
            elif block.language == "text":
                printed.append(block.text)
            elif named:
                (folder / named[1]).write_text(block.text, encoding="utf-8")
            else:
                session.append(block.text)
        if session:
            assert run_python("\n".join(session), folder) == "".join(printed)
    return count
