# SPDX-License-Identifier: Apache-2.0
"""A group of commands without a command shows its help, as it is."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("words", [[], ["deploy"]])
def test_the_help_is_shown_in_lines(words: list[str]) -> None:
    stateport = "import stateport.cli; stateport.cli.main()"
    run = subprocess.run(
        [sys.executable, "-c", stateport, *words], capture_output=True, text=True, check=False
    )
    lines = run.stderr.splitlines()
    assert run.returncode == 2
    assert lines[0].startswith("Usage: stateport")
    assert "Commands:" in lines
    assert "Error" not in run.stderr
    assert "\\n" not in run.stderr
