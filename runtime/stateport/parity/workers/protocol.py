# SPDX-License-Identifier: Apache-2.0
"""The messages between `client.py` and the process `main.py`: JSON, one object per line.

A `Job` goes to the process; what comes back is described in `main.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ...files.reading import parse_json
from ...picking import map_values
from ..engine_report import EngineReport, ErrorCurve, Measurement

#: The prefix of every message: engines and environments print on stdout, too.
MARK: Final = "stateport> "
#: The `doing` of a process that looks for the first node that is off.
LOCATING: Final = "looking for the first node that is off"


@dataclass(frozen=True)
class Job:
    """What one process does with one engine.

    Attributes:
        model: the model's file.
        vectors: the recorded answers' file.
        engine: the engine's name, None where the plan names it.
        options: the engine's options.
        plan: a plan's file.
        wanted: `atol` and `rtol`, or `snr`, in place of stateport's own bound.
        hand_over: the folder for the state in the middle of a case, if other engines continue
            from it.
        locate: the file for the first node that is off, if it is to be located.
        take_over: by the folder of a state that another engine wrote, the precision in which that
            engine computed. A job that has some does nothing else.
    """

    model: str
    vectors: str
    engine: str | None
    options: Mapping[str, object] = field(default_factory=dict)
    plan: str | None = None
    wanted: Mapping[str, float] = field(default_factory=dict)
    hand_over: str | None = None
    locate: str | None = None
    take_over: Mapping[str, str] | None = None
    data: str | None = None

    def to_json(self) -> str:
        """The job in one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Reads what `to_json` wrote."""
        return cls(**parse_json(text, finite=False))


def measurement_to_json(measurement: Measurement) -> dict[str, Any]:
    """A measurement in types that JSON has."""
    return asdict(measurement)


def measurement_from_json(document: Mapping[str, Any]) -> Measurement:
    """Reads what `measurement_to_json` gave."""
    curve = document["curve"]
    if curve:
        curve = ErrorCurve(**map_values(tuple, curve))
    return Measurement(**{**document, "curve": curve})


def report_to_json(report: EngineReport) -> dict[str, Any]:
    """A report in types that JSON has."""
    measurements = [*map(measurement_to_json, report.measurements)]
    return {**vars(report), "measurements": measurements}


def report_from_json(document: Mapping[str, Any]) -> EngineReport:
    """Reads what `report_to_json` gave."""
    measurements = tuple(map(measurement_from_json, document["measurements"]))
    return EngineReport(**{**document, "measurements": measurements})
