"""The pytest plugin in a separate pytest: what passes, what fails, and the messages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import stateport
from stateport.parity.vectors import vectors_path
from tests.plugins import install

HEAVY = {"numpy", "torch", "onnx", "onnxruntime", "openvino", "rich", "safetensors"}
OFF = r"(y|hn|cn) is \d\.\de-\d+ off at step \d+"
PLAIN = """
def test_it(parity):
    parity("good.onnx")
"""
MARKED = """
import pytest

@pytest.mark.parity({marker})
def test_it(parity):
    matrix = parity("good.onnx")
    print(*(f"{{row.choice}}={{row.status}}" for row in matrix.rows), len(matrix.carried))
"""

Outcome = subprocess.CompletedProcess[str]
Run = Callable[..., Outcome]


@pytest.fixture
def folder(reference: Path, tmp_path: Path) -> Path:
    """A user's folder: a good model, one with a weight off, and an engine that does not load."""
    for name in ("good", "wrong"):
        shutil.copy(reference, tmp_path / f"{name}.onnx")
        shutil.copy(vectors_path(reference), vectors_path(tmp_path / f"{name}.onnx"))
    model = onnx.load(tmp_path / "wrong.onnx")
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] += 0.01
    tensor.raw_data = array.tobytes()
    onnx.save(model, tmp_path / "wrong.onnx")
    (install(tmp_path, name="absent") / "absent.py").unlink()
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Run:
    """Runs a test file in that folder; any warning is an error, and so is an unknown marker."""

    def call(text: str, *arguments: str) -> Outcome:
        (folder / "test_user.py").write_text(text)
        options = ("-p", "stateport.pytest_plugin", "--strict-markers", "-W", "error", "-rA")
        return subprocess.run(
            [sys.executable, "-m", "pytest", *options, *arguments],
            cwd=folder,
            # Installed with its entry point or not: it is loaded once, by -p.
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return call


def test_a_good_file_passes(run: Run) -> None:
    outcome = run(PLAIN)
    assert outcome.returncode == 0, outcome.stdout
    assert "1 passed" in outcome.stdout
    assert "stateport not run" not in outcome.stdout


def test_a_broken_file_fails_with_output_step_and_how_far(run: Run) -> None:
    outcome = run(PLAIN.replace("good", "wrong"))
    assert outcome.returncode == 1, outcome.stdout
    assert re.search(rf"^wrong\.onnx on ort-cpu: .+: {OFF}", outcome.stdout, re.MULTILINE), (
        outcome.stdout
    )
    assert "pytest_plugin.py" not in outcome.stdout  # no traceback of ours


def test_several_engines_are_one_matrix_with_streams_between_them(run: Run) -> None:
    outcome = run(MARKED.format(marker='"ort-cpu", "tract"'))
    assert outcome.returncode == 0, outcome.stdout
    assert "ort-cpu=passed tract=passed 2" in outcome.stdout


def test_each_engine_and_each_carried_stream_that_fails_has_a_line(run: Run) -> None:
    outcome = run(MARKED.format(marker='"ort-cpu", "tract"').replace("good", "wrong"))
    assert outcome.returncode == 1, outcome.stdout
    for head in (" on ort-cpu", " on tract", ", ort-cpu to tract", ", tract to ort-cpu"):
        assert re.search(rf"^wrong\.onnx{head}: .+: {OFF}", outcome.stdout, re.MULTILINE), (
            outcome.stdout
        )


def test_without_its_only_engine_a_test_is_skipped(run: Run) -> None:
    outcome = run(MARKED.format(marker='"absent"'))
    assert outcome.returncode == 0, outcome.stdout
    assert "1 skipped" in outcome.stdout
    assert "absent: The engine 'absent' (absent) cannot be loaded" in outcome.stdout


@pytest.mark.parametrize("names", ['"absent"', '"ort-cpu", "absent"'])
def test_a_required_engine_that_is_not_installed_fails_the_test(run: Run, names: str) -> None:
    outcome = run(MARKED.format(marker=f"{names}, require=True"))
    assert outcome.returncode == 1, outcome.stdout
    assert "absent: The engine 'absent' (absent) cannot be loaded" in outcome.stdout


def test_one_of_several_engines_may_be_missing_which_is_noted(run: Run, folder: Path) -> None:
    outcome = run(MARKED.format(marker='"ort-cpu", "absent"'), "--junit-xml=junit.xml")
    assert outcome.returncode == 0, outcome.stdout
    assert "ort-cpu=passed absent=not run 0" in outcome.stdout
    note = outcome.stdout.partition("= stateport not run =")[2]
    assert "test_user.py::test_it: absent: The engine 'absent'" in note
    (noted,) = ElementTree.parse(folder / "junit.xml").iter("property")  # noqa: S314  # our own
    assert noted.get("name") == "stateport not run"
    assert str(noted.get("value")).startswith("absent: ")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ('parity("none.onnx")', "none.onnx"),
        ('parity("good.onnx", vectors="none.safetensors")', "none.safetensors"),
        ('parity("good.onnx", engine="ort-cup")', "There is no engine 'ort-cup'; known are "),
        ('parity("good.onnx", engine="ort-cpu:threads")', "NAME:OPTION=VALUE"),
        ('parity("good.onnx", engine="ort-cpu:nonsense=1")', "nonsense"),
        ('parity("good.onnx", atol=1, snr=20)', "exclude one another"),
        ('parity("test_user.py")', "test_user.py"),
    ],
)
def test_a_mistake_of_the_user_is_a_message_and_no_traceback(
    run: Run, call: str, says: str
) -> None:
    outcome = run(f"def test_it(parity):\n    {call}\n", "-r", "N")
    assert outcome.returncode == 1, outcome.stdout
    (message,) = re.findall(r"_ test_it _+\n(.*?)\n=", outcome.stdout, re.DOTALL)
    assert says in message
    assert "Error" not in message
    assert len(message.splitlines()) <= 2


@pytest.mark.parametrize("marker", ["1", '"ort-cpu", required=True'])
def test_a_marker_of_another_form_is_refused(run: Run, marker: str) -> None:
    outcome = run(MARKED.format(marker=marker))
    assert outcome.returncode == 1, outcome.stdout
    assert "The marker is parity(*engines, require=False)" in outcome.stdout


def test_bounds_and_vectors_of_the_callers(run: Run, folder: Path) -> None:
    vectors_path(folder / "wrong.onnx").unlink()
    (folder / "deeper").mkdir()
    outcome = run("""
from pathlib import Path

def test_tolerance(parity, monkeypatch):
    monkeypatch.chdir("deeper")
    matrix = parity("../wrong.onnx", vectors=Path("../good.vectors.safetensors"), atol=0.5)
    assert matrix.reports[0].bound == "atol 0.5, rtol 0"

def test_budget(parity):
    matrix = parity("wrong.onnx", vectors="good.vectors.safetensors", snr=20, engine=["ort-cpu"])
    assert matrix.reports[0].bound == "20 dB"
""")
    assert outcome.returncode == 0, outcome.stdout


def test_the_marker_and_the_fixture_are_explained(run: Run) -> None:
    assert "@pytest.mark.parity(*engines, require=False): " in run("", "--markers").stdout
    assert "Compares a model with PyTorch's recorded answers" in run("", "--fixtures").stdout


def test_loading_the_plugin_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, stateport.pytest_plugin; print(*{n.split('.')[0] for n in sys.modules})"
    outcome = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(outcome.stdout.split())
    assert "pytest" in loaded
    assert loaded & HEAVY == set()


def test_engines_is_the_word_that_verify_has(run: Run) -> None:
    for word in ("engines", "engine"):
        call = f'def test_it(parity):\n    print(parity("good.onnx", {word}="tract").rows)\n'
        assert "tract" in run(call, "-s").stdout
    both = 'def test_it(parity):\n    parity("good.onnx", engine="tract", engines="tract")\n'
    outcome = run(both)
    assert outcome.returncode == 1
    assert "engines and engine are one argument" in outcome.stdout


def test_recorded_data_is_judged(folder: Path, run: Run) -> None:
    x = 4 * np.random.default_rng(0).standard_normal((1, 30, 5))
    np.save(folder / "take.npy", x.astype(np.float32))
    assert run('def test_it(parity):\n    parity("good.onnx", data="take.npy")\n').returncode == 0

    y, _ = stateport.load(folder / "good.onnx")(x.astype(np.float32))
    np.savez(folder / "take.npz", x=x.astype(np.float32), y=y)
    outcome = run('def test_it(parity):\n    parity("wrong.onnx", data="take.npz")\n')
    assert outcome.returncode == 1
    assert "recorded" in outcome.stdout
