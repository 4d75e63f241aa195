"""Every kind of network on a GPU, with and without CUDA graphs: `make cuda`.

Nothing here runs without a GPU, the driver, and the GPU build of ONNX Runtime.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

import stateport
from models.lstm import ReferenceLSTM
from stateport import EngineError, State, engines
from stateport.engines.choice import EngineChoice
from stateport.parity.matrix import Matrix, run_matrix
from stateport.parity.reports.wording import reason
from stateport.parity.vectors import Vectors, vectors_path
from stateport_exporter import export
from tests.exporter.patterns import PATTERNS, Pattern, seeded
from tests.references import REFERENCES

PROBLEM: Final = engines.status("ort-cuda").problem

pytestmark = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))

CPU: Final = EngineChoice("ort-cpu")
PLAIN: Final = EngineChoice("ort-cuda")
GRAPHS: Final = EngineChoice("ort-cuda", {"graphs": True})

#: cuDNN sums in another order than the CPU.
CLOSE: Final = 1e-5


@pytest.mark.parametrize("name", REFERENCES)
def test_the_reference_networks_pass_with_and_without_graphs(name: str, tmp_path: Path) -> None:
    module = REFERENCES[name]()
    path = tmp_path / "m.onnx"
    vectors = export(module, module.example_inputs, path).vectors  # type: ignore[arg-type]

    for choice in (PLAIN, GRAPHS):
        matrix = run_matrix(path, vectors, [CPU, choice])
        check(matrix)
        assert len(matrix.carried) == 2


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_one_network_of_every_kind_passes(pattern: Pattern, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    module = seeded(pattern.make)
    vectors = export(module, pattern.example, path, method=pattern.method).vectors
    check(run_matrix(path, vectors, [CPU, PLAIN]))


def check(matrix: Matrix) -> None:
    for row in matrix.rows:
        assert row.status == "passed", f"{row.choice}: {reason(row)}"
    for carried in matrix.carried:
        assert carried.status == "passed", (
            f"{carried.source} to {carried.target}: {reason(carried)}"
        )


def test_float16_passes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    module = ReferenceLSTM(hidden_size=32)
    vectors = export(module, module.example_inputs, path, dtype="float16").vectors
    check(run_matrix(path, vectors, [PLAIN]))


@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "graphs"])
def test_a_long_stream_equals_the_whole_on_the_cpu(reference: Path, graphs: bool) -> None:
    x = normal(1, 2048)
    expected, last = stateport.load(reference).run({"x": x})

    stream = stateport.load(reference, engine="ort-cuda", graphs=graphs).stream()
    y = np.concatenate([stream(x[:, i : i + 1]) for i in range(2048)], axis=1)

    close(y, expected["y"])
    close_states(stream.state, last)


def test_streams_with_graphs_do_not_disturb_each_other(reference: Path) -> None:
    cpu = stateport.load(reference)
    model = stateport.load(reference, engine="ort-cuda", graphs=True)
    streams = [(model.stream(), cpu.stream()) for _ in range(3)]

    random = np.random.default_rng(0)
    for round_number in range(200):
        stream, expected = streams[int(random.integers(len(streams)))]
        x = normal(1, int(random.choice([1, 2, 7])), round_number)
        close(stream(x), expected(x))


@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "graphs"])
def test_a_state_is_saved_restored_and_reset(reference: Path, tmp_path: Path, graphs: bool) -> None:
    model = stateport.load(reference, engine="ort-cuda", graphs=graphs)
    stream, x = model.stream(), normal(1, 6)
    stream(x[:, :3])
    saved = stream.state
    first = stream(x[:, 3:])
    saved.save(tmp_path / "saved.state")

    stream.restore(State.load(tmp_path / "saved.state"))
    np.testing.assert_array_equal(stream(x[:, 3:]), first)

    stream.reset()
    fresh = model.stream()
    np.testing.assert_array_equal(stream(x), fresh(x))


@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "graphs"])
def test_a_pool_gives_what_streams_give(reference: Path, graphs: bool) -> None:
    pool = stateport.load(reference, engine="ort-cuda", graphs=graphs).pool(8)
    cpu = stateport.load(reference)
    expected = {pool.open(): cpu.stream() for _ in range(8)}

    random = np.random.default_rng(1)
    for round_number in range(50):
        streams = list(expected)
        chosen = random.choice(len(streams), int(random.integers(1, 9)), replace=False)
        stepped = [streams[i] for i in chosen]
        x = normal(len(stepped), 1, round_number)
        for stream, chunk, y in zip(stepped, x, pool.step(stepped, x), strict=True):
            close(y, expected[stream](chunk[None])[0])


def test_a_gpu_that_is_not_there_is_refused(reference: Path) -> None:
    with pytest.raises(EngineError, match="device"):
        stateport.load(reference, engine="ort-cuda", device=99)


def test_an_array_that_the_memory_cannot_hold_is_refused(reference: Path) -> None:
    model = stateport.load(reference, engine="ort-cuda")
    with pytest.raises(EngineError, match="The GPU has no memory for float32"):
        model.stream()(np.broadcast_to(np.zeros((1, 1, 5), np.float32), (10**12, 1, 5)))


def test_nothing_is_printed(reference: Path) -> None:
    code = f"import stateport; stateport.load({str(reference)!r}, engine='ort-cuda').stream()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_graphs_of_a_network_with_a_loop_say_what_to_do(tmp_path: Path) -> None:
    loop = next(pattern for pattern in PATTERNS if pattern.group == "Loops over time")
    path = tmp_path / "m.onnx"
    export(seeded(loop.make), loop.example, path, method=loop.method)
    with pytest.raises(EngineError, match="graphs=False"):
        stateport.load(path, engine="ort-cuda", graphs=True)


def test_verify_measures_the_vectors_beside_the_file(reference: Path) -> None:
    assert Vectors.load(vectors_path(reference)).cases
    assert stateport.verify(
        reference, engines=("ort-cpu", "ort-cuda", "ort-cuda:graphs=True")
    ).passed


def normal(rows: int, time: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, time, 5), np.float32)


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=CLOSE)


def close_states(a: State, b: State) -> None:
    assert [*a] == [*b]
    for name in a:
        close(a[name], b[name])
