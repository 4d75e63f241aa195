"""A finished file gets its vectors, and is held against them, before the two appear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from stateport import load
from stateport.engines import status
from stateport.parity.engine_report import EngineReport, measure_model
from stateport.parity.pair import digest
from stateport.parity.reports.wording import worst
from stateport.parity.vectors import Vectors, vectors_path

from ..errors import ExportError


def write_vectors(
    place: Path,
    vectors: Vectors,
    *,
    name: str,
    check: bool,
    refusal: Callable[[str], str],
    related: bool = True,
) -> EngineReport | None:
    """Writes vectors that name the file which they stand beside, and verifies the two.

    It is called where the file is written, within `written_together`, so that an error keeps both
    from appearing.

    Args:
        place: the file, finished: its bytes are what the vectors will name.
        vectors: the answers for it. Files that they name already, it was made of.
        name: what reports and errors call the file.
        check: whether it is verified on `ort-cpu`, where ONNX Runtime is installed.
        refusal: what the error is, for a sentence on the worst measurement.
        related: whether the vectors are known to belong to the file, or to what it was made of.
            If not, they go on to name whatever they name, so that `measure_model` says it.

    Raises:
        ExportError: the file does not give the answers.
    """
    if related:
        vectors = replace(vectors, models=(*vectors.models, digest(place)))
    vectors.save(vectors_path(place))
    if not check or status("ort-cpu").problem is not None:
        return None
    report = measure_model(load(place), vectors, name=name)
    if not report.passed:
        raise ExportError(refusal(worst(report)))
    return report
