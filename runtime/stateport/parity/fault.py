"""Where a file or an engine goes wrong first; it takes the exporter to find out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from ..errors import StateportError
from ..model import Model
from .engine_report import EngineReport
from .vectors import Vectors

GROUP: Final = "stateport.locators"


@dataclass(frozen=True)
class LocatedFault:
    """The first node whose answer is not what it should be.

    Attributes:
        fault: whose it is: "file", where the graph is not the one that was exported; "engine",
            where the graph is right and the engine does not compute it.
        node: the node's name.
        operator: what it computes: "LSTM".
        output: the name of the value that is off.
        case: the case in whose call it was found.
        step: the first step that is off in that call; None where the value has no steps.
        error: how far it is off.
        allowed: how far it may be.
        file: the node alone as an ONNX file, with vectors; None where it cannot stand alone.
    """

    fault: str
    node: str
    operator: str
    output: str
    case: str
    step: int | None
    error: float
    allowed: float
    file: str | None = None

    def __str__(self) -> str:
        where = "" if self.step is None else f" at step {self.step}"
        whose = {
            "file": "The file is not what was exported",
            "engine": "The file is right, the engine is not",
        }[self.fault]
        alone = "" if self.file is None else f" The node alone: {self.file}, with vectors."
        return (
            f"{whose}: the first value to be off is {self.output!r} of the {self.operator} node "
            f"{self.node!r}, {self.error:.1e}{where} of {self.case}, where {self.allowed:.1e} is "
            f"allowed.{alone}"
        )


#: (model's file, model, engine's options, vectors, failed report, where to write the node alone)
Locate = Callable[[Path, Model, dict[str, Any], Vectors, EngineReport, Path], LocatedFault]


def locator() -> Locate:
    """The function that locates, from the exporter.

    Raises:
        StateportError: the exporter is not installed here.
    """
    for entry in entry_points(group=GROUP):
        found: Locate = entry.load()
        return found
    raise StateportError(
        "To locate a difference takes graph work, which belongs to the exporter; it is not "
        "installed here. Install it: pip install stateport-exporter."
    )
