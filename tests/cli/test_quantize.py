"""`stateport quantize`: what it says, what it writes, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.exporter.stacks import exported


def test_it_lists_what_became_of_every_layer(command: Command, tmp_path: Path) -> None:
    source = exported("convolved", tmp_path / "m.onnx")
    outcome = command("quantize", source, "-o", tmp_path / "q.onnx")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    for part in ("DynamicQuantizeLSTM", "as it was: Conv is left as it is", "rnn.l0", "% of"):
        assert part in outcome.stdout
    assert "PASS" in outcome.stdout
    assert "25 dB was wanted (int8, float64 truth)" in outcome.stdout
    verified = command("verify", tmp_path / "q.onnx")
    assert verified.returncode == 0
    assert "SNR" in verified.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("-o", "nowhere/q.onnx"), 1, "there is no folder nowhere"),
        ((), 2, "Missing option '-o'"),
        (("-o", "q.onnx", "--bits", "3"), 2, "'3' is not one of '8', '4'"),
    ],
)
def test_misuse_is_refused(
    command: Command, reference: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    outcome = command("quantize", reference, *arguments)
    assert outcome.returncode == code
    assert says in outcome.stderr


def test_what_is_no_model_is_refused(command: Command, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"garbage")
    outcome = command("quantize", tmp_path / "m.onnx", "-o", tmp_path / "q.onnx")
    assert outcome.returncode == 1
    assert "is not a whole ONNX file" in outcome.stderr
    outcome = command("quantize", tmp_path / "none.onnx", "-o", tmp_path / "q.onnx")
    assert "none.onnx could not be read" in outcome.stderr
    assert not (tmp_path / "q.onnx").exists()
