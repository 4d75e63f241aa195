"""What the README shows is what happens: every command and every snippet."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What a test cannot run inside itself, and what runs it instead.
ELSEWHERE = {
    "make demo": ".ci/run",
    "make test": ".ci/run",
    "pip install stateport-exporter 'stateport[cpu]'": "demo/wheel_check.py",
    "pip install 'stateport[cpu]'": "demo/wheel_check.py",
}


def commands() -> list[tuple[str, list[str]]]:
    """Each `$ command` of the README with the lines of output below it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    (ROOT / "build").mkdir(exist_ok=True)
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.patterns
def test_every_command_and_every_snippet(environment: dict[str, str]) -> None:
    assert len(commands()) >= 7
    for command, shown in commands():
        result = subprocess.run(
            shlex.split(command), cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, (command, result.stderr)
        for line in shown:
            assert line in result.stdout, (command, result.stdout)
    # Both write to build/, so they run one after the other.
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        subprocess.run([sys.executable, "-c", snippet], cwd=ROOT, env=environment, check=True)


def test_the_other_commands_run_elsewhere() -> None:
    indented = re.findall(r"^    (\S.*?)(?:\s+#.*)?$", README, re.MULTILINE)
    assert set(indented) == set(ELSEWHERE)
    for command, place in ELSEWHERE.items():
        text = (ROOT / place).read_text(encoding="utf-8")
        needed = command if command.startswith("make") else "stateport"
        assert needed in text


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_newest_opset_is_the_one_that_is_tested() -> None:
    stated = re.search(r"Opsets 18\s+to\s+(\d+)", README)
    assert stated
    import onnx

    assert int(stated[1]) == onnx.defs.onnx_opset_version()
