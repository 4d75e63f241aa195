# SPDX-License-Identifier: Apache-2.0
"""A finished file gets its vectors, is verified against them, and appears with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import onnx_ir as ir

from stateport import EngineError, Model, load
from stateport.engines import status
from stateport.errors import FileError
from stateport.files.writing import check_place, written_together
from stateport.parity.engine_report import EngineReport, measure_model
from stateport.parity.pair import digest
from stateport.parity.reports.wording import worst
from stateport.parity.vectors import Vectors, vectors_path
from stateport.shown import shown

from ..errors import CheckError, ExportError
from .serialization import save


def check_paths(path: Path, source: Path | None = None) -> None:
    """Checks, before any work is done, that a file and its vectors may be written.

    Raises:
        FileError: there is no such folder, nobody may write there, something else than a file has
            one of the names, or the file's name does not end in .onnx.
        ExportError: the file is `source`, from which the new one would be made.
    """
    check_place(path)
    if path.suffix != ".onnx":
        raise FileError(
            f"{shown(str(path))} does not end in .onnx; a model is an ONNX file. Name it "
            f"{shown(str(path.with_suffix('.onnx')))}."
        )
    check_place(vectors_path(path))

    if source is not None and path.exists() and path.samefile(source):
        raise ExportError(f"{path} is the source itself; give the new file another name.")


def write_verified(
    model: ir.Model,
    path: Path,
    vectors_of: Callable[[Path], Vectors | None],
    *,
    check: bool,
    fault: str,
    advice: str,
    related: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> EngineReport | None:
    """Writes a model and its vectors, verifies the two, and lets them appear together, or neither.

    Args:
        model: the finished graph.
        path: the file to write. Its weights and vectors are written beside it.
        vectors_of: gives the vectors, for the file with the model, which is not at `path` yet;
            None where there are none.
        check: whether the file is verified on `ort-cpu`, where ONNX Runtime is installed.
        fault: what is wrong if the file fails, in the first words of the error.
        advice: what to do then, in the last words of the error.
        related: as in `write_vectors`.
        progress: is called with a text before each part of the work: "part" or "part: detail".

    Returns:
        What verifying the file gave, or None where it was not verified.

    Raises:
        CheckError: the file does not give the answers.
        ExportError: the model is not valid ONNX.
        FileError: a file cannot be written.
    """

    def refusal(measurement: str) -> str:
        return f"{fault}, so it was not written. {measurement} {advice}"

    progress(f"writing {path.name}")
    with written_together(path) as folder:
        file = folder / path.name
        save(model, file)

        vectors = vectors_of(file)
        if vectors is None:
            return None
        return write_vectors(
            file,
            vectors,
            name=str(path),
            check=check,
            refusal=refusal,
            related=related,
            progress=progress,
        )


def write_vectors(
    file: Path,
    vectors: Vectors,
    *,
    name: str,
    check: bool,
    refusal: Callable[[str], str],
    related: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> EngineReport | None:
    """Writes vectors that name the file beside which they are written, and verifies the two.

    Call it within `written_together`, so that an error keeps both from appearing.

    Args:
        file: the finished file: the vectors will name its bytes.
        vectors: the answers for it. Files that they name already, it was made of.
        name: what reports and errors call the file.
        check: whether it is verified on `ort-cpu`, where ONNX Runtime is installed.
        refusal: makes the error's text, from a sentence on the worst measurement.
        related: whether the vectors are known to belong to the file, or to what it was made of.
            If not, they keep the names that they have, so that `measure_model` reports it.
        progress: is called with a text before each case is verified.

    Raises:
        CheckError: the file does not give the answers, or ONNX Runtime cannot load it.
    """
    if related:
        vectors = replace(vectors, models=(*vectors.models, digest(file)))
    vectors.save(vectors_path(file))

    if not check or status("ort-cpu").problem is not None:
        return None

    numbers = count(1)

    def report_case(case: str) -> None:
        progress(f"verifying: {next(numbers)} of {len(vectors.cases)}, {case}")

    model = _loaded(file, name)
    report = measure_model(model, vectors, name=name, progress=report_case)
    if not report.passed:
        raise CheckError(refusal(worst(report)))
    return report


def _loaded(file: Path, name: str) -> Model:
    """The model on the engine that verifies it; `name` is what errors call the file."""
    try:
        return load(file)
    except EngineError as error:
        reason = str(error).replace(str(file), name)
        raise CheckError(
            f"{reason}. So the file was not verified, and not written. Compute with other dtypes "
            "or operators: ONNX Runtime has most of them for float32, int64 and bool. To write the "
            "file for other engines, pass check=False."
        ) from error
