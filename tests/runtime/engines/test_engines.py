"""The engines: what they refuse, and the same answers on every device that is there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import stateport
from stateport import EngineError, EngineUnavailable, FileError, InputError, engines
from stateport.model_file.onnx_outline import read

PROBLEM = engines.status("ort-cuda").problem
cuda = pytest.mark.skipif(PROBLEM is not None, reason=f"no CUDA here: {PROBLEM}")
no_cuda = pytest.mark.skipif(PROBLEM is None, reason="CUDA works here")


def test_an_unknown_engine_is_refused_with_those_that_are_known(reference: Path) -> None:
    with pytest.raises(EngineUnavailable, match="no engine 'abacus'; known are ort-cpu, ort-cuda"):
        stateport.load(reference, engine="abacus")


def test_an_unknown_option_is_refused_with_those_that_are_known(reference: Path) -> None:
    with pytest.raises(InputError, match="ort-cpu has no option 'turbo'; it takes none"):
        stateport.load(reference, turbo=True)
    with pytest.raises(
        InputError, match="ort-cuda has no option 'turbo'; it takes device and graphs"
    ):
        stateport.load(reference, engine="ort-cuda", turbo=True)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_threads_that_are_no_number_are_refused(reference: Path, threads: int) -> None:
    with pytest.raises(InputError, match=r"threads is .*; a whole number from 1 to"):
        stateport.load(reference, threads=threads)


@pytest.mark.parametrize("graphs", [1, "yes", None])
def test_graphs_that_are_no_truth_value_are_refused(reference: Path, graphs: object) -> None:
    with pytest.raises(InputError, match="True or False was expected"):
        stateport.load(reference, engine="ort-cuda", graphs=graphs)


@pytest.mark.parametrize("device", [-1, "0", None, True])
def test_a_device_that_is_no_number_is_refused(reference: Path, device: object) -> None:
    with pytest.raises(InputError, match="the number of a GPU was expected"):
        stateport.load(reference, engine="ort-cuda", device=device)


def test_more_threads_give_the_same_answers(reference: Path) -> None:
    x = np.random.default_rng(0).standard_normal((4, 50, 5), np.float32)
    one, _ = stateport.load(reference)(x)
    two, _ = stateport.load(reference, threads=2)(x)
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-6)


def test_the_cpu_engine_tells_its_status() -> None:
    status = engines.status("ort-cpu")
    assert status.problem is None
    assert str(status.version).startswith("onnxruntime ")


@no_cuda
def test_cuda_is_refused_where_it_is_not_with_what_is_missing(reference: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"(?i)GPU build|CUDA") as refusal:
        stateport.load(reference, engine="ort-cuda")
    assert "stateport[gpu]" in str(refusal.value) or "doctor" in str(refusal.value)
    assert engines.status("ort-cuda").version is None


def test_both_builds_of_onnx_runtime_at_once_are_refused(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.20.0.dist-info"
        folder.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.20.0\n"
        (folder / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(tmp_path)
    for engine in ("ort-cpu", "ort-cuda"):
        with pytest.raises(EngineUnavailable, match=r"both installed.*pip uninstall"):
            stateport.load(reference, engine=engine)
        assert "both installed" in str(engines.status(engine).problem)


def test_a_missing_onnx_runtime_is_refused_with_how_to_get_it(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'stateport\[cpu\]'"):
        stateport.load(reference)
    assert "stateport[cpu]" in str(engines.status("ort-cpu").problem)


def test_a_graph_that_the_engine_refuses_is_an_engine_error(counter: Path, tmp_path: Path) -> None:
    content = counter.read_bytes()
    assert content.count(b"Gather") == 1
    path = tmp_path / "unknown.onnx"
    path.write_bytes(content.replace(b"Gather", b"Gothic"))
    assert read(path).operators["Gothic"] == 1
    with pytest.raises(EngineError, match=r"cannot load .*unknown\.onnx: .*Gothic") as refusal:
        stateport.load(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("opset", "ir_version", "says"),
    [
        (99, 10, r"knows opsets up to \d+, and .*new\.onnx has opset 99\. Export it with --opset"),
        (20, 99, r"up to IR version \d+, and .*new\.onnx has IR version 99\. Install a newer"),
    ],
)
def test_a_file_that_is_newer_than_the_engine_says_so(
    reference: Path, tmp_path: Path, opset: int, ir_version: int, says: str
) -> None:
    model = onnx.load(reference)
    model.opset_import[0].version, model.ir_version = opset, ir_version
    (tmp_path / "new.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match=says):
        stateport.load(tmp_path / "new.onnx")


def test_a_graph_that_the_engine_stumbles_over_prints_nothing(
    counter: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # ONNX Runtime's own fall back to another provider would announce itself on stdout.
    content = counter.read_bytes()
    assert content.count(b"table") == 2
    path = tmp_path / "name.onnx"
    path.write_bytes(content.replace(b"table", b"t\xffble", 1))  # a node's operand, not UTF-8
    with pytest.raises((FileError, EngineError)):
        stateport.load(path)
    assert capfd.readouterr() == ("", "")


@cuda
@pytest.mark.parametrize("chunks", [[1] * 20, [64], [7, 1, 30]])
def test_cuda_gives_the_answers_of_the_cpu(reference: Path, chunks: list[int]) -> None:
    random = np.random.default_rng(0)
    one = stateport.load(reference).stream()
    other = stateport.load(reference, engine="ort-cuda").stream()
    for chunk in chunks:
        x = random.standard_normal((3, chunk, 5), np.float32)
        np.testing.assert_allclose(other(x), one(x), rtol=0, atol=1e-5)
    for name, array in other.state.items():
        np.testing.assert_allclose(array, one.state[name], rtol=0, atol=1e-5)


@cuda
def test_on_cuda_the_state_stays_on_the_device_between_the_calls_of_a_stream(
    reference: Path,
) -> None:
    stream = stateport.load(reference, engine="ort-cuda").stream()
    for _ in range(3):
        stream(np.ones((2, 1, 5), np.float32))
        buffers = stream._buffers._current.values()
        assert [buffer.value.device_name().lower() for buffer in buffers] == ["cuda", "cuda"]


@cuda
def test_on_cuda_a_saved_state_is_restored(reference: Path) -> None:
    model = stateport.load(reference, engine="ort-cuda")
    stream, x = model.stream(), np.ones((2, 3, 5), np.float32)
    stream(x)
    saved = stream.state
    first = stream(x)
    stream.restore(saved)
    np.testing.assert_allclose(stream(x), first, rtol=0, atol=1e-6)


@cuda
def test_cuda_graphs_give_what_calls_without_them_give(reference: Path) -> None:
    """Two streams and a pool in turns, of several chunk sizes: each has its own graphs."""
    random = np.random.default_rng(0)
    plain = stateport.load(reference, engine="ort-cuda")
    graphs = stateport.load(reference, engine="ort-cuda", graphs=True)
    pairs = [(plain.stream(), graphs.stream()) for _ in range(2)]
    pools = (plain.pool(4), graphs.pool(4))
    ids = [pool.open(4) for pool in pools]
    for number in range(60):
        x = random.standard_normal((4, 1 + number % 3, 5), np.float32)
        for one, other in pairs:
            np.testing.assert_allclose(other(x), one(x), rtol=0, atol=1e-6)
        some = slice(None) if number % 4 else slice(1, 3)
        ys = [pool.step(s[some], x[some]) for pool, s in zip(pools, ids, strict=True)]
        np.testing.assert_allclose(ys[1], ys[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(graphs(x)[0], plain(x)[0], rtol=0, atol=1e-6)
        if number == 30:
            pairs[0][1].restore(pairs[0][0].state)
            for stream in pairs[1]:
                stream.reset()


@cuda
def test_a_gpu_that_is_not_there_is_refused(reference: Path) -> None:
    with pytest.raises(EngineError):
        stateport.load(reference, engine="ort-cuda", device=99)
