"""What a process is asked to verify, and what it tells: JSON, one object per line.

`main.py` is the process, `client.py` asks it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ...files.reading import parse_json
from ..engine_report import EngineReport, ErrorCurve, Measurement

#: What a line of a message begins with, because engines and environments print on stdout too.
MARK: Final = "stateport> "
#: What a process says that it is doing while it looks for the first node that is off.
LOCATING: Final = "looking for the first node that is off"


@dataclass(frozen=True)
class Job:
    """One engine's work.

    Attributes:
        model: the model's file.
        vectors: the recorded answers' file.
        engine: the engine's name, None where a plan says it.
        options: the engine's options.
        plan: a plan's file.
        wanted: `atol` and `rtol`, or `snr`, in place of stateport's own bound.
        hand_over: the folder for the state in the middle of a case, if others go on from it.
        locate: the file for the first node that is off, if it is to be found.
        take_over: folders with the states of other engines to go on from, and in what precision
            those computed. A job that has some does nothing else.
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

    def to_json(self) -> str:
        """The job in one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Reads what `to_json` wrote."""
        return cls(**parse_json(text, finite=False))


def measurement_to_json(measurement: Measurement) -> dict[str, Any]:
    """A measurement as JSON holds it."""
    return asdict(measurement)


def measurement_from_json(document: Mapping[str, Any]) -> Measurement:
    """Reads what `plain` gave."""
    curve = document["curve"]
    return Measurement(**{**document, "curve": curve and ErrorCurve(**_tuples(curve))})


def report_from_json(document: Mapping[str, Any]) -> EngineReport:
    """Reads a report that went through JSON."""
    found = tuple(measurement_from_json(part) for part in document["measurements"])
    return EngineReport(**{**document, "measurements": found})


def _tuples(curve: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(values) for name, values in curve.items()}
