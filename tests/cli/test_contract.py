# SPDX-License-Identifier: Apache-2.0
"""`stateport contract`: a file with states of its own, on which every command then works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.exporter.test_contract_file import lstm


def theirs(folder: Path) -> Path:
    state = (1, "b", 4)
    return lstm(folder / "theirs.onnx", ("p", "b", 3), [state] * 4, ("p", 1, "b", 4))


def test_every_command_works_on_the_copy(command: Command, tmp_path: Path) -> None:
    source, path = theirs(tmp_path), tmp_path / "ours.onnx"
    states = ("--state", "h_in=h_out", "--state", "c_in=c_out", "--axes", "x=time,batch,3")
    outcome = command("contract", source, "-o", path, *states)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    for part in ("input   x: float32[time, batch, 3]", "h_in -> h_out", "PASS", "Wrote"):
        assert part in outcome.stdout

    for arguments in (("verify", path), ("quantize", path, "-o", tmp_path / "int8.onnx")):
        worked = command(*arguments)
        assert worked.returncode == 0, worked.stderr
        assert "PASS" in worked.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--state", "h=h_out"), 1, "no input 'h' to be a state"),
        (("--axes", "x=time,batch"), 1, "the file has"),
        (("--axes", "x=time,,3"), 2, "has an empty axis"),
        (("--axes", "x=p,b,3", "--axes", "x=p,b,3"), 2, "is named twice"),
        (("--axes", "x"), 2, "is not of the form NAME=AXIS"),
        (("--axes", "X=time,batch,3"), 1, "Did you mean"),
    ],
)
def test_misuse_is_refused(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    outcome = command("contract", theirs(tmp_path), "-o", tmp_path / "ours.onnx", *arguments)
    assert outcome.returncode == code
    assert says in outcome.stderr
    assert not (tmp_path / "ours.onnx").exists()
