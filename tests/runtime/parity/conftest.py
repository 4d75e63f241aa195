"""What verifying on several engines found, of good and of broken files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from stateport.engines.choice import EngineChoice
from stateport.parity.engine_report import Measurement
from stateport.parity.fault import LocatedFault
from stateport.parity.matrix import CarriedStream, EngineVerdict, Matrix, run_matrix
from stateport.parity.vectors import vectors_path
from stateport_exporter import quantize

HOSTILE = "<script>alert('1')</script>|`b`*_c_*]]>&lt;\"\n\x00\x1b[31m\x85\udc80\ufffe$[d](e)\\"


def run(model: Path, *engines: str) -> Matrix:
    return run_matrix(model, vectors_path(model), [EngineChoice.parse(text) for text in engines])


def spoilt(reference: Path, path: Path, edit: Callable[[float], float]) -> Path:
    """The reference with one weight another, and its vectors."""
    model = onnx.load(reference)
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] = edit(array.flat[0])
    tensor.raw_data = array.tobytes()
    onnx.save(model, path)
    shutil.copy(vectors_path(reference), vectors_path(path))
    return path


@pytest.fixture(scope="session")
def passing(reference: Path) -> Matrix:
    """The reference on two engines, one of them in two precisions, and one that is not here."""
    return run(reference, "ort-cpu", "openvino", "openvino:precision=bfloat16", "ort-cuda")


@pytest.fixture(scope="session")
def quantized(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """The reference in int8, which is judged by decibels."""
    path = tmp_path_factory.mktemp("quantized") / "q.onnx"
    quantize(reference, path, check=False)
    return run(path, "ort-cpu")


@pytest.fixture(scope="session")
def failing(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """A broken file on engines that are here, that is not, and that crashed; errors that grew."""
    path = tmp_path_factory.mktemp("wrong") / "wrong.onnx"
    found = run(spoilt(reference, path, lambda w: w + 0.01), "ort-cpu", "openvino", "ort-cuda")
    crashed = EngineVerdict(
        EngineChoice("tract"), problem="It took its process down (loading): SIGSEGV."
    )
    carried = CarriedStream("ort-cpu", "tract", problem="It ended without an answer.")
    first, second, *others = found.rows
    at = LocatedFault("file", "l0", "LSTM", "y", "whole 1x1, from zeros", 0, 1e-3, 1e-6, "l0.onnx")
    first, second = replace(first, located=at), replace(second, not_located="It was not found.")
    return replace(
        found,
        rows=(first, second, *others, crashed),
        carried=(*found.carried, carried),
        grown=("ort-cpu: the error of y in chain 2x2048, from random grew 3.2 times.",),
    )


@pytest.fixture(scope="session")
def infinite(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """A file that answers with NaN, and with an output that could not be compared."""
    path = tmp_path_factory.mktemp("nan") / "nan.onnx"
    found = run(spoilt(reference, path, lambda _: np.nan), "onnx-reference")
    (row,) = found.rows
    assert row.report is not None
    first, *others = row.report.measurements
    odd = Measurement(first.case, first.output, problem="(1, 1, 9) came, (1, 1, 10) was promised.")
    report = replace(row.report, measurements=(odd, *others))
    return replace(found, rows=(replace(row, report=report),))


@pytest.fixture(scope="session")
def named(failing: Matrix) -> Callable[[str], Matrix]:
    """The failing matrix, with this text for all that somebody else named."""

    def rename(text: str) -> Matrix:
        def measured(found: tuple[Measurement, ...]) -> tuple[Measurement, ...]:
            first, *rest = [replace(m, case=text + m.case, output=text + m.output) for m in found]
            return replace(first, problem=text, error=None, share=None), *rest

        def row(given: EngineVerdict) -> EngineVerdict:
            choice = EngineChoice(text + given.choice.name, {text: text}, text)
            if given.report is None:
                return replace(given, choice=choice, problem=text)
            report = replace(
                given.report,
                engine_version=text,
                bound=text,
                environment={text: text},
                made_with={text: text},
                measurements=measured(given.report.measurements),
            )
            at = given.located and replace(given.located, node=text, output=text, file=text)
            why = given.not_located and text
            return replace(given, choice=choice, report=report, located=at, not_located=why)

        rows = tuple(map(row, failing.rows))
        pairs = zip(failing.rows, rows, strict=True)
        names = {str(before.choice): str(after.choice) for before, after in pairs}
        carried = tuple(
            replace(
                c,
                source=names[c.source],
                target=names[c.target],
                measurements=measured(c.measurements) if c.measurements else (),
                problem=c.problem and text,
            )
            for c in failing.carried
        )
        return Matrix(text, rows, carried, (text,))

    return rename


@pytest.fixture(scope="session")
def hostile(named: Callable[[str], Matrix]) -> Matrix:
    """Names that end cells, tags, attributes and CDATA, and characters that XML forbids."""
    return named(HOSTILE)


@pytest.fixture(params=["passing", "failing", "infinite", "hostile"])
def matrix(request: pytest.FixtureRequest) -> Matrix:
    """Each of the matrices above."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Matrix)
    return found
