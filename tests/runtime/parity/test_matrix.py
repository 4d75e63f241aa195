"""One file on many engines: each in a separate process, whatever happens to the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from stateport import FileError
from stateport.engines.choice import EngineChoice
from stateport.engines.openvino import computed_precision
from stateport.parity.bounds import SignalToNoise, Tolerance
from stateport.parity.matrix import Matrix, run_matrix
from stateport.parity.reports.wording import reason
from stateport.parity.vectors import vectors_path
from tests.conftest import Exported
from tests.plugins import install

HERE = ("ort-cpu", "openvino", "tract", "onnx-reference")


def judged(path: Path, *names: str, **options: object) -> Matrix:
    choices = [EngineChoice.parse(name) for name in names]
    return run_matrix(path, vectors_path(path), choices, **options)  # type: ignore[arg-type]


def test_every_engine_passes_and_takes_every_others_state(reference: Path) -> None:
    doing: list[str] = []
    matrix = judged(reference, *HERE, "ort-cuda", progress=doing.append)
    assert matrix.passed
    assert [row.status for row in matrix.rows] == ["passed"] * 4 + ["not run"]
    assert matrix.missing == ("ort-cuda",)
    assert "stateport[gpu]" in str(matrix.rows[-1].problem)
    pairs = {(c.source, c.target) for c in matrix.carried}
    assert pairs == {(a, b) for a in HERE for b in HERE if a != b}
    assert all(c.status == "passed" for c in matrix.carried)
    # The whole chain is judged: the first engine's steps and the second's.
    assert all(m.case.startswith("chain") for c in matrix.carried for m in c.measurements)
    assert "tract: chain 2x2048, from random" in doing


@pytest.mark.patterns
@pytest.mark.parametrize("arguments", [{"bidirectional": True}, {"num_layers": 2}])
def test_other_networks_states_are_carried_too(
    exported: Exported, arguments: dict[str, object]
) -> None:
    matrix = judged(exported(**arguments), "ort-cpu", "openvino")
    assert matrix.passed
    assert len(matrix.carried) == 2


@pytest.mark.patterns
def test_one_engine_may_come_twice_with_other_options(reference: Path) -> None:
    matrix = judged(reference, "openvino", "openvino:precision=bf16", "ort-cpu")
    assert matrix.passed
    full, half, _ = matrix.reports
    assert full.precision == "float32"
    assert half.precision == computed_precision("bfloat16")
    # What began in less precision is judged by that, whoever goes on.
    judged_by_ratio = {(c.source, c.target) for c in matrix.carried if c.measurements[0].snr}
    if half.precision == "float32":
        assert judged_by_ratio == set()
        return
    assert half.bound == "25 dB"
    assert judged_by_ratio == {
        pair for pair in ((c.source, c.target) for c in matrix.carried) if "openvino:" in str(pair)
    }


@pytest.mark.parametrize(
    ("run", "status", "says"),
    [
        ("import ctypes; ctypes.string_at(0)", "error", "SIGSEGV"),
        ("import os; os.abort()", "error", "SIGABRT"),
        ("import os; os.write(2, b'out of ideas'); os._exit(3)", "error", r"3 \(out of ideas\)"),
        ("import threading; threading.Event().wait()", "error", "no sign of life for 5 s"),
        ("raise ValueError('beads')", "error", "ValueError: beads"),
        ("return answers[:-1]", "failed", "gave 2 outputs; 3 were asked for"),
        ("return [answers[0][:, :1], *answers[1:]]", "failed", "came where float32"),
        ("return [a.astype('float64') for a in answers]", "failed", "came where float32"),
        ("return [a * float('nan') for a in answers]", "failed", "inf off at step"),
        ("print('chatter'); return answers", "passed", None),
    ],
)  # fmt: skip
def test_an_engine_that_goes_wrong_fails_alone(
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: str,
    status: str,
    says: str | None,
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, run=run))
    matrix = judged(reference, "ort-cpu", "abacus", "onnx-reference", limit=5.0)
    assert [row.status for row in matrix.rows] == ["passed", status, "passed"]
    assert {(c.source, c.target) for c in matrix.carried if c.status == "passed"} >= {
        ("ort-cpu", "onnx-reference"),
        ("onnx-reference", "ort-cpu"),
    }
    assert matrix.passed is (status == "passed")
    if says is not None:
        assert re.search(says, str(reason(matrix.rows[1])))


LATE = """
import atexit, threading
atexit.register(threading.Event().wait)
return answers
"""


def test_an_engine_that_hangs_where_it_ends_fails_too(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, run=LATE))
    matrix = judged(reference, "abacus", limit=5.0)
    assert matrix.rows[0].status == "error"
    assert "no sign of life for 5 s (ending)" in str(matrix.rows[0].problem)


WAITS = """
import threading
told = open(FIFO, "w")
told.write("up")
told.flush()
threading.Event().wait()
"""


def test_a_process_ends_with_the_one_that_asked_it(reference: Path, tmp_path: Path) -> None:
    """Whoever asked may be killed; what it started would compute for ever."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    install(tmp_path, run=WAITS.replace("FIFO", repr(str(fifo))))
    code = (
        "from pathlib import Path\n"
        "from stateport.engines.choice import EngineChoice\n"
        "from stateport.parity.matrix import run_matrix\n"
        f"model, vectors = Path({str(reference)!r}), Path({str(vectors_path(reference))!r})\n"
        "run_matrix(model, vectors, [EngineChoice('abacus')])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    asks = subprocess.Popen([sys.executable, "-c", code], env=environment)
    with asks, fifo.open() as told:
        assert told.read(2) == "up"
        asks.kill()
        assert told.read() == ""  # it comes to an end when the engine's process does


TIRED = """
from stateport import EngineError
self.calls = getattr(self, "calls", 0) + 1
if self.calls > 2220:  # all cases take 2,146 calls
    raise EngineError("tired")
return answers
"""


def test_a_state_that_cannot_be_handed_over_is_told(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine passes its own cases, and fails when the chain is begun once more."""
    monkeypatch.syspath_prepend(install(tmp_path, run=TIRED))
    matrix = judged(reference, "abacus", "ort-cpu")
    assert [row.status for row in matrix.rows] == ["passed", "passed"]
    (lost,) = [c for c in matrix.carried if (c.source, c.target) == ("abacus", "ort-cpu")]
    assert (lost.status, lost.problem) == ("error", "tired")
    assert not matrix.passed


def test_an_engine_that_loses_the_state_is_caught_where_it_takes_over(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is right from zeros, so that its own sequences from there would pass."""
    run = """
        start = {name: 0 * array if name != "x" else array for name, array in inputs.items()}
        return self.session.run(list(outputs), start)
    """
    monkeypatch.syspath_prepend(install(tmp_path, run=run))
    matrix = judged(reference, "ort-cpu", "abacus")
    failed = [(c.source, c.target) for c in matrix.carried if c.status == "failed"]
    assert ("ort-cpu", "abacus") in failed


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with NumPy, safetensors and the engines, but without stateport."""
    folder = tmp_path_factory.mktemp("environment")
    command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    python = folder / "bin" / "python"
    place = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # A folder named in a .pth file is searched, but the .pth files in it are not: they hold what
    # is installed in editable mode.
    (Path(place) / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_an_engine_runs_in_another_environments_interpreter(
    reference: Path, elsewhere: Path
) -> None:
    gone = subprocess.run([elsewhere, "-c", "import stateport"], capture_output=True, check=False)
    assert gone.returncode, "the environment was to have no stateport"
    there = EngineChoice("ort-cpu", python=str(elsewhere))
    matrix = run_matrix(reference, vectors_path(reference), [EngineChoice("ort-cpu"), there])
    assert matrix.passed, matrix.rows
    assert len(matrix.carried) == 2
    assert str(matrix.rows[1].choice) == f"ort-cpu in {elsewhere}"


def test_an_interpreter_that_is_none_is_refused(reference: Path, tmp_path: Path) -> None:
    choice = EngineChoice("ort-cpu", python=str(tmp_path / "python"))
    with pytest.raises(FileError, match=r"cannot be started.*--python"):
        run_matrix(reference, vectors_path(reference), [choice])


def test_bounds_are_the_callers(reference: Path) -> None:
    assert not judged(reference, "ort-cpu", wanted=Tolerance(0.0, 0.0)).passed
    assert judged(reference, "ort-cpu", wanted=Tolerance(1e-3, 0.0)).passed
    assert not judged(reference, "ort-cpu", wanted=SignalToNoise(300.0)).passed


def test_a_wrong_file_fails_on_every_engine(wrong: Path) -> None:
    matrix = judged(wrong, *HERE)
    assert [row.status for row in matrix.rows] == ["failed"] * 4
    assert all(c.status == "failed" for c in matrix.carried)


def test_the_working_directory_does_not_matter(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(reference.parent)
    assert judged(Path(os.path.relpath(reference)), "ort-cpu").passed


def test_the_errors_of_a_long_case_are_a_curve(reference: Path) -> None:
    (report,) = judged(reference, "ort-cpu").reports
    curves = {m.output: m.curve for m in report.measurements if m.case.startswith("chain")}
    assert set(curves) == {"y", "hn", "cn"}
    for curve in curves.values():
        assert curve is not None
        assert len(curve.steps) == len(curve.errors) == len(curve.floors) == 128
        assert curve.steps[0] == 0
        assert np.all(np.diff(curve.steps) > 0)
        assert max(curve.errors) <= 8 * max(curve.floors)
