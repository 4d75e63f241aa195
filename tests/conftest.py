"""Files that many tests share, exported once per session."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import settings
from onnx import numpy_helper

import stateport
from models.lstm import ReferenceLSTM
from stateport.parity.engine_report import EngineReport, measure_model
from stateport.parity.vectors import Vectors, vectors_path
from stateport_exporter import export

Exported = Callable[..., Path]

# No test judges by the clock.
settings.register_profile("stateport", deadline=None)
settings.load_profile("stateport")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Exports a `ReferenceLSTM` with the given arguments (and `opset`), once for each set."""
    folder = tmp_path_factory.mktemp("exported")

    def make(*, opset: int = 20, **arguments: object) -> Path:
        text = json.dumps([opset, arguments], sort_keys=True)
        path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.onnx"
        if not path.exists():
            module = ReferenceLSTM(**arguments)  # type: ignore[arg-type]
            export(module, module.example_inputs, path, opset=opset)
        return path

    return make


@pytest.fixture(scope="session")
def reference(exported: Exported) -> Path:
    """The reference LSTM: (5, 10x1), batch first."""
    return exported()


@pytest.fixture
def copied(reference: Path, tmp_path: Path) -> Path:
    """The reference and its vectors in a folder of their own."""
    path = tmp_path / "model.onnx"
    shutil.copy(reference, path)
    shutil.copy(vectors_path(reference), vectors_path(path))
    return path


@pytest.fixture
def wrong(copied: Path) -> Path:
    """The same, with one recurrent weight off by a hundredth."""
    model = onnx.load(copied)
    (tensor,) = (t for t in model.graph.initializer if t.name.endswith("l0.R"))
    array = numpy_helper.to_array(tensor).copy()
    array[0, 3, 2] += 0.01
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, copied)
    return copied


@pytest.fixture(scope="session")
def judged() -> Callable[[Path], EngineReport]:
    """Verifies a file on `ort-cpu` against the vectors beside it."""

    def judge(path: Path) -> EngineReport:
        return measure_model(stateport.load(path), Vectors.load(vectors_path(path)), name=path.name)

    return judge
