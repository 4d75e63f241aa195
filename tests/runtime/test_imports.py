"""What a fresh interpreter loads: the runtime knows nothing of PyTorch, and no engine unasked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "onnx", "onnxruntime", "openvino", "onnxscript", "onnx_ir"}
ENGINES = {"onnxruntime", "openvino"}
TORCH = HEAVY - ENGINES
ARGUMENTS = "import sys; from stateport.cli import main; sys.argv = ['stateport', *{}]; main()"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import stateport", HEAVY),
        ("import stateport.cli", HEAVY),
        ("import stateport_exporter", HEAVY),
        ("import stateport_exporter.cli.export", HEAVY),
        (ARGUMENTS.format(["--help"]), HEAVY),
        (ARGUMENTS.format(["--version"]), HEAVY),
        (ARGUMENTS.format(["export", "--help"]), HEAVY),
        (ARGUMENTS.format(["doctor"]), TORCH - {"onnx"}),
        ("import stateport_exporter; stateport_exporter.quantize", {"torch", *ENGINES}),
    ],
)
def test_a_fresh_interpreter_does_not_load(code: str, absent: set[str]) -> None:
    assert not loaded(code) & absent


def test_running_a_model_loads_no_pytorch_and_no_onnx(reference: Path) -> None:
    code = (
        "import numpy as np, stateport; "
        f"stream = stateport.load({str(reference)!r}).stream(); "
        "stream(np.zeros((1, 1, 5), np.float32))"
    )
    found = loaded(code)
    assert "onnxruntime" in found
    assert not found & TORCH


def loaded(code: str) -> set[str]:
    """The top-level modules that are loaded after running `code` in a separate interpreter."""
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('\\nLOADED', *{n.split('.')[0] for n in sys.modules}))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script + code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.rpartition("LOADED")[2].split())
