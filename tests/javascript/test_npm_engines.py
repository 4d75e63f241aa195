"""The engines `ort-node` and `ort-web`: the npm package, held to what PyTorch answered."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import pytest

import stateport
from stateport import EngineError, InputError, engines
from stateport.engines.choice import EngineChoice
from stateport.engines.npm_package import NpmEngine
from stateport.engines.ort_node import NodeProcess
from stateport.parity.matrix import run_matrix
from stateport.parity.reports.wording import reason
from tests.chunks import check_like_ort_cpu
from tests.javascript.networks import NETWORKS, exported

ENGINES: Final = ("ort-node", "ort-web")
#: Each stream between two engines takes seconds: those to Python are tried on two of the networks.
AND_PYTHON: Final = ("reference", "float16")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_recorded_cases_pass_and_streams_are_carried(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    result = exported(name, path)
    names = (*ENGINES, *(["ort-cpu"] if name in AND_PYTHON else []))
    choices = [EngineChoice(engine) for engine in names]
    matrix = run_matrix(path, result.vectors, choices)
    for row in matrix.rows:
        assert row.status == "passed", f"{row.choice}: {reason(row)}"
    assert [carried.status for carried in matrix.carried] == ["passed"] * (
        len(names) * (len(names) - 1)
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_models_streams_and_pools_are_as_on_any_engine(engine: str, reference: Path) -> None:
    check_like_ort_cpu(reference, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_call_one_model_at_the_same_time(engine: str, reference: Path) -> None:
    model = stateport.load(reference, engine=engine)
    xs = np.random.default_rng(0).standard_normal((24, 2, 4, 5), np.float32)
    expected = [model(x)[0] for x in xs]
    with ThreadPoolExecutor(4) as threads:
        for (y, _), right in zip(threads.map(model, xs), expected, strict=True):
            np.testing.assert_array_equal(y, right)


def test_a_process_that_ends_is_an_error_and_another_takes_its_place(reference: Path) -> None:
    model = stateport.load(reference, engine="ort-node")
    engine = model._engine
    assert isinstance(engine, NpmEngine)
    x = np.ones((1, 2, 5), np.float32)
    y, _ = model(x)
    [process] = engine._idle
    assert isinstance(process, NodeProcess)
    process._process.kill()
    with pytest.raises(EngineError, match="The Node process ended with exit code"):
        model(x)
    np.testing.assert_array_equal(model(x)[0], y)


def test_the_process_ends_with_the_model(reference: Path) -> None:
    model = stateport.load(reference, engine="ort-node")
    engine = model._engine
    assert isinstance(engine, NpmEngine)
    [process] = engine._idle
    assert isinstance(process, NodeProcess)
    del model, engine
    gc.collect()
    assert process._process.poll() is not None


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_package_refuses_is_an_engine_error(
    engine: str, reference: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "m.onnx"
    content = reference.read_bytes()
    assert content.count(b"LSTM") >= 1
    broken.write_bytes(content.replace(b"LSTM", b"LSTX"))
    with pytest.raises(EngineError, match=f"ONNX Runtime cannot load {broken}: "):
        stateport.load(broken, engine=engine)


@pytest.mark.parametrize(
    ("engine", "wrong", "meant"),
    [("ort-node", "module", "modules"), ("ort-web", "browsers", "browser")],
)
def test_the_options_name_the_folder_and_the_program(
    reference: Path,
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    wrong: str,
    meant: str,
) -> None:
    monkeypatch.delenv("STATEPORT_NODE_MODULES")
    with pytest.raises(EngineError, match="name that folder: STATEPORT_NODE_MODULES=FOLDER"):
        stateport.load(reference, engine=engine)
    model = stateport.load(reference, engine=engine, modules=str(package))
    assert model.engine_version.startswith("onnxruntime 1.")
    with pytest.raises(EngineError, match=f"which are not in {tmp_path}"):
        stateport.load(reference, engine=engine, modules=tmp_path)
    with pytest.raises(InputError, match=rf"no option '{wrong}'.*Did you mean '{meant}'"):
        stateport.load(reference, engine=engine, **{wrong: "x"})  # type: ignore[arg-type]


def test_doctor_says_the_version() -> None:
    status = engines.status("ort-node")
    assert status.version is not None
    assert status.version.startswith("onnxruntime-node 1.")
