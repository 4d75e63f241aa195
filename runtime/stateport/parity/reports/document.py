# SPDX-License-Identifier: Apache-2.0
"""The report as JSON; docs/report.schema.json describes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from ...printable import json_text
from ..engine_report import Measurement
from ..matrix import CarriedStream, EngineVerdict, Matrix
from .alike import common_fault
from .wording import reason

VERSION: Final = 1


def render(matrix: Matrix) -> str:
    """The whole report as one JSON document; an infinite number is the string "inf"."""
    return f"{json_text(document(matrix))}\n"


def document(matrix: Matrix) -> dict[str, Any]:
    """The whole report, in types that JSON has."""
    return {
        "version": VERSION,
        "model": matrix.model,
        "passed": matrix.passed,
        "required": matrix.required,
        "common_fault": common_fault(matrix),
        "engines": [*map(_engine, matrix.rows)],
        "carried": [*map(_carried, matrix.carried)],
        "grown": list(matrix.grown),
        "remarks": list(matrix.remarks),
    }


def _engine(row: EngineVerdict) -> dict[str, Any]:
    """One engine's entry."""
    head = {
        "engine": row.choice.name,
        "label": str(row.choice),
        "options": dict(row.choice.options),
        "python": row.choice.python,
        "status": row.status,
        "reason": reason(row),
        "located": None if row.located is None else dict(vars(row.located)),
        "not_located": row.not_located,
    }

    report = row.report
    if report is None:
        return {**head, "measurements": []}

    return {
        **head,
        "engine_version": report.engine_version,
        "precision": report.precision,
        "truth": report.truth,
        "bound": report.bound,
        "steps": report.steps,
        "environment": report.environment,
        "made_with": report.made_with,
        "measurements": _measurements(report.measurements),
    }


def _carried(carried: CarriedStream) -> dict[str, Any]:
    return {
        "from": carried.source,
        "to": carried.target,
        "status": carried.status,
        "reason": reason(carried),
        "measurements": _measurements(carried.measurements),
    }


def _measurements(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    return [{**asdict(m), "passed": m.passed} for m in measurements]
