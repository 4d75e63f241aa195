"""The pytest plugin as a user has it: from the wheel, where neither PyTorch nor onnx is installed.

Run by `make wheel-check`, after the wheels are built.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
from onnx import numpy_helper

from demo.clean_venv import make_venv
from demo.wheel_check import wheel

BUILD = Path("build")
FOLDER = BUILD / "plugin-check"
TESTS = """
def test_good(parity):
    parity("good.onnx")

def test_broken(parity):
    parity("broken.onnx")
"""
FAILURE = re.compile(r"^broken\.onnx on ort-cpu: .+: \w+ is [\d.]+e-\d+ off at step \d+.*$", re.M)


def main() -> None:
    """Writes a user's tests, runs them in a clean environment, and checks what they say."""
    write_files()
    requirement = f"stateport[cpu] @ {wheel('stateport-[0-9]*')}"
    python = make_venv(BUILD / "plugin-venv", requirement, "pytest")
    result = subprocess.run(
        [python, "-I", "-m", "pytest", "-rA"],
        capture_output=True,
        text=True,
        check=False,
        cwd=FOLDER,
    )
    said = FAILURE.search(result.stdout)
    wanted = ("plugins: stateport-", "PASSED test_user.py::test_good", "1 failed, 1 passed")
    if result.returncode != 1 or said is None or not all(w in result.stdout for w in wanted):
        sys.exit(f"The plugin did not pass the good model and fail the broken one:\n{result}")
    print(f"the plugin passes a good model, and says of a broken one: {said[0]}")


def write_files() -> None:
    """A user's folder: two models, and a test for each."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    (FOLDER / "pytest.ini").touch()  # so that the settings of this repository are not taken
    (FOLDER / "test_user.py").write_text(TESTS)
    command = Path(sys.executable).with_name("stateport")
    good = FOLDER / "good.onnx"
    subprocess.run([command, "export", "models/lstm.py:reference", "-o", good], check=True)
    shutil.copy(FOLDER / "good.vectors.safetensors", FOLDER / "broken.vectors.safetensors")
    onnx.save(with_a_weight_off(onnx.load(good)), FOLDER / "broken.onnx")


def with_a_weight_off(model: onnx.ModelProto) -> onnx.ModelProto:
    """Adds a hundredth to one weight."""
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] += 0.01
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


if __name__ == "__main__":
    main()
