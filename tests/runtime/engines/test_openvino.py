"""OpenVINO as an engine: the same answers, in float32 unless less is asked for."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest

import stateport
from stateport import EngineError, EngineUnavailable, InputError, engines
from stateport.engines.openvino import _core, computed_precision
from stateport.parity.engine_report import measure_model
from stateport.parity.vectors import Vectors, vectors_path
from tests.conftest import Exported


@pytest.mark.parametrize(
    "arguments", [{}, {"num_layers": 2, "batch_first": False}, {"bidirectional": True}]
)
def test_it_passes_the_verification(exported: Exported, arguments: dict[str, object]) -> None:
    path = exported(**arguments)
    report = measure_model(
        stateport.load(path, engine="openvino"), Vectors.load(vectors_path(path))
    )
    assert report.passed
    assert report.engine == "openvino"
    assert report.engine_version.startswith("openvino 20")


def test_a_state_goes_from_one_engine_to_the_other_and_back(reference: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 30, 5), np.float32)
    whole, _ = stateport.load(reference)(x)
    here, there = (stateport.load(reference, engine=e).stream() for e in ("ort-cpu", "openvino"))
    first = here(x[:, :10])
    there.restore(here.state)
    second = there(x[:, 10:20])
    here.restore(there.state)
    joined = np.concatenate([first, second, here(x[:, 20:])], axis=1)
    np.testing.assert_allclose(joined, whole, rtol=0, atol=1e-6)


def test_a_pool_steps_as_streams_of_their_own_do(reference: Path) -> None:
    model = stateport.load(reference, engine="openvino")
    random = np.random.default_rng(0)
    pool = model.pool(4)
    streams = pool.open(4)
    alone = [model.stream() for _ in streams]
    for rows in ([0, 1, 2, 3], [2, 0], [3], [1, 2, 3], [0, 1, 2, 3]):
        x = random.standard_normal((len(rows), 3, 5), np.float32)
        ys = pool.step(streams[rows], x)
        for row, one, y in zip(rows, x, ys, strict=True):
            np.testing.assert_allclose(alone[row](one[None])[0], y, rtol=0, atol=1e-6)


def test_threads_share_one_model(reference: Path) -> None:
    model = stateport.load(reference, engine="openvino")
    xs = np.random.default_rng(0).standard_normal((8, 1, 50, 5), np.float32)

    def alone(x: np.ndarray) -> np.ndarray:
        stream = model.stream()
        return np.concatenate([stream(x[:, i : i + 1]) for i in range(x.shape[1])], axis=1)

    expected = [alone(x) for x in xs]
    with ThreadPoolExecutor(8) as workers:
        for one, other in zip(workers.map(alone, xs), expected, strict=True):
            np.testing.assert_array_equal(one, other)
        whole = [y for y, _ in workers.map(model, xs)]
    np.testing.assert_allclose(np.concatenate(whole), np.concatenate(expected), rtol=0, atol=1e-6)


def test_float32_is_the_default_and_bfloat16_a_choice(exported: Exported) -> None:
    path = exported(input_size=64, hidden_size=128)
    x = np.random.default_rng(0).standard_normal((8, 100, 64), np.float32)
    truth, _ = stateport.load(path)(x)
    exact, _ = stateport.load(path, engine="openvino")(x)
    np.testing.assert_allclose(exact, truth, rtol=0, atol=1e-6)
    model = stateport.load(path, engine="openvino", precision="bfloat16")
    rough, _ = model(x)
    error = np.abs(rough - truth).max()
    # Processors without bfloat16 compute in float32, and the model says which of both it was.
    assert model.precision == ("float32" if error < 1e-6 else "bfloat16")
    assert error < 0.05
    assert rough.dtype == np.float32


def test_the_precision_is_measured_and_not_what_was_asked_for() -> None:
    assert computed_precision("float32") == "float32"
    has_bfloat16 = "BF16" in _core(openvino).get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert computed_precision("bfloat16") == ("bfloat16" if has_bfloat16 else "float32")


def test_other_precisions_and_options_are_refused(reference: Path) -> None:
    with pytest.raises(InputError, match="precision is 'int3'; 'float32' or 'bfloat16' was"):
        stateport.load(reference, engine="openvino", precision="int3")
    with pytest.raises(InputError, match="openvino has no option 'device'; it takes precision"):
        stateport.load(reference, engine="openvino", device=0)


def test_where_it_is_missing_the_refusal_says_how_to_get_it(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'stateport\[openvino\]'"):
        stateport.load(reference, engine="openvino")
    assert "stateport[openvino]" in str(engines.status("openvino").problem)


def test_a_graph_that_it_refuses_is_an_engine_error(counter: Path, tmp_path: Path) -> None:
    path = tmp_path / "unknown.onnx"
    path.write_bytes(counter.read_bytes().replace(b"Gather", b"Gothic"))
    with pytest.raises(EngineError, match=r"OpenVINO cannot load .*unknown\.onnx: .*Gothic"):
        stateport.load(path, engine="openvino")


SIGNALS = """
import ctypes, signal, sys
import numpy, stateport

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def stack():
    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.start

signal.signal(signal.SIGUSR1, lambda *_: None)
stateport.load(sys.argv[1], engine="openvino")
first = stack()
for _ in range(4):
    model = stateport.load(sys.argv[1], engine="openvino")
    assert stack() == first
    signal.raise_signal(signal.SIGUSR1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of other systems nothing is known")
def test_models_that_come_and_go_leave_the_stack_of_signal_handlers_in_place(
    reference: Path,
) -> None:
    program = [sys.executable, "-c", SIGNALS, str(reference)]
    result = subprocess.run(program, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 0, result.stderr
