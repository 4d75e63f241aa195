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
# What a test cannot run inside itself: the file that runs it instead, and the words that do.
ELSEWHERE = {
    "make demo": (".ci/run", "make demo"),
    "make test": (".ci/run", "make test"),
    "pip install './runtime[cpu]' ./exporter": ("demo/__main__.py", "./runtime[cpu]"),
    "pip install './runtime[cpu]'": ("demo/__main__.py", "./runtime[cpu]"),
    "make wheels": ("Makefile", "wheel-check: wheels"),
    "pip install dist/*.whl onnxruntime": ("demo/wheel_check.py", "stateport_exporter-*"),
    "pip install dist/stateport-*.whl onnxruntime": ("demo/wheel_check.py", "stateport-[0-9]*"),
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


def snippets() -> list[str]:
    """Each block of Python in the README."""
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.patterns
def test_every_command_and_every_snippet(environment: dict[str, str], tmp_path: Path) -> None:
    short, network, *others = snippets()
    assert len(others) == 2
    # All that a reader has is an empty folder and the network that the README shows.
    run_snippet(short, tmp_path, environment)
    (tmp_path / "lstm.onnx").unlink()
    (tmp_path / "network.py").write_text(network, encoding="utf-8")
    assert len(commands()) >= 7
    for command, shown in commands():
        result = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, (command, result.stderr)
        for line in shown:
            assert line in result.stdout, (command, result.stdout)
    for snippet in others:
        run_snippet(snippet, tmp_path, environment)


def run_snippet(snippet: str, folder: Path, environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-c", snippet], cwd=folder, env=environment, check=True)


def test_the_first_snippet_is_short() -> None:
    lines = [line for line in snippets()[0].splitlines() if line]
    assert len(lines) <= 10


def test_the_other_commands_run_elsewhere() -> None:
    unfenced = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    indented = re.findall(r"^    (\S.*?)(?:\s+#.*)?$", unfenced, re.MULTILINE)
    assert set(indented) == set(ELSEWHERE)
    for place, needed in ELSEWHERE.values():
        assert needed in (ROOT / place).read_text(encoding="utf-8")


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_newest_opset_is_the_one_that_is_tested() -> None:
    stated = re.search(r"Opsets 18\s+to\s+(\d+)", README)
    assert stated
    import onnx

    assert int(stated[1]) == onnx.defs.onnx_opset_version()
