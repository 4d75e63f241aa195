"""`stateport emit`: what it says, what it writes, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.conftest import Exported


def test_it_tells_what_the_device_needs(command: Command, reference: Path, tmp_path: Path) -> None:
    outcome = command("emit", "c", reference, "-o", tmp_path / "out")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    for part in ("2,560 bytes", "80 bytes for each sequence", "630 in a step", "passes here"):
        assert part in outcome.stdout
    assert (tmp_path / "out" / "model_test.c").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "Missing option '-o'"),
        (("-o", "out", "--batch", "0"), 2, "0 is not in the range 1<=x<=65536"),
        (("-o", "out", "--name", "a b"), 1, "name is 'a b'"),
        (("-o", "nowhere/out"), 1, "nowhere/out cannot be made"),
    ],
)
def test_misuse_is_refused(
    command: Command, reference: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    outcome = command("emit", "c", reference, *arguments)
    assert outcome.returncode == code
    assert says in outcome.stderr


def test_a_file_that_fails_its_test_names_the_option(
    command: Command, wrong: Path, tmp_path: Path
) -> None:
    outcome = command("emit", "c", wrong, "-o", tmp_path / "out")
    assert outcome.returncode == 1
    assert "--no-check" in outcome.stderr
    assert command("emit", "c", wrong, "-o", tmp_path / "out", "--no-check").returncode == 0


def test_what_needs_whole_sequences_is_refused(
    command: Command, exported: Exported, tmp_path: Path
) -> None:
    outcome = command("emit", "c", exported(bidirectional=True), "-o", tmp_path / "out")
    assert outcome.returncode == 1
    assert "bidirectional" in outcome.stderr
