"""What the README shows is what happens: every command and every snippet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import blocks, commands, commands_not_run, run_command, run_python

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What a test cannot run inside itself, and what runs it instead.
ELSEWHERE = {
    "make demo": ".ci/run",
    "make test": ".ci/run",
    "pip install stateport-exporter 'stateport[cpu]'": "demo/wheel_check.py",
    "pip install 'stateport[cpu]'": "demo/wheel_check.py",
}


@pytest.mark.patterns
def test_every_command_and_every_snippet() -> None:
    (ROOT / "build").mkdir(exist_ok=True)
    shown = [block for block in blocks(README) if block.language == "console"]
    listed = [command for block in shown for command in commands(block.text)]
    assert len(listed) >= 7
    for command, lines in listed:
        run_command(command, lines, ROOT)
    # Both write to build/, so they run one after the other.
    snippets = [block.text for block in blocks(README) if block.language == "python"]
    assert len(snippets) == 2
    for snippet in snippets:
        run_python(snippet, ROOT)


def test_the_other_commands_run_elsewhere() -> None:
    assert commands_not_run(README) == set(ELSEWHERE)
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
