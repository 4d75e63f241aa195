"""`stateport lift`: a file of another exporter gets its states in the open."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import stateport
from tests.exporter.graphs import Builder

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Refused = Callable[..., None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An LSTM that starts from zeros at every call."""
    build = Builder()
    x = build.op("Transpose", [build.input("x", ["N", "L", 5])], perm=[1, 0, 2])
    y = build.recurrent("LSTM", x, 5, 6)
    build.output(build.op("Transpose", [y], perm=[1, 0, 2]), "y", ["N", "L", None])
    return build.save(tmp_path / "source.onnx")


def test_a_file_is_lifted_and_streams(command: Command, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "lifted.onnx"
    outcome = command("lift", source, "-o", path)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    for part in ("LSTM", "lifted", "state", f"Wrote {path}", "of what is allowed"):
        assert part in outcome.stdout
    contract = stateport.load(path).contract
    assert len(contract.states) == 2
    assert contract.streaming.ok
    assert command("verify", path).returncode == 0


def test_what_cannot_be_lifted_is_said_and_nothing_is_written(
    command: Command, refused: Refused, out: Path, source: Path, tmp_path: Path
) -> None:
    refused(command("lift", tmp_path / "none.onnx", "-o", "m.onnx"), "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    refused(command("lift", tmp_path / "text.onnx", "-o", "m.onnx"), "not a whole ONNX file")
    refused(command("lift", source), "Missing option '-o'", code=2)
    refused(command("lift", source, "-o", "no/folder/m.onnx"), "no/folder")
    build = Builder()
    build.output(build.op("Relu", [build.input("x", ["N", "L", 5])]), "y", ["N", "L", 5])
    refused(
        command("lift", build.save(tmp_path / "plain.onnx"), "-o", "m.onnx"), "LSTM, GRU or RNN"
    )


def test_a_file_with_a_contract_is_refused(
    command: Command, refused: Refused, out: Path, reference: Path
) -> None:
    refused(command("lift", reference, "-o", "m.onnx"), "has a contract that names its states")
    assert onnx.load(reference).metadata_props
