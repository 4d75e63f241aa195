# SPDX-License-Identifier: Apache-2.0
"""The first node at which a file or an engine goes wrong; the exporter locates it."""

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
    """The first node whose answer is wrong.

    Attributes:
        fault: "file" where the graph is not the one that was exported; "engine" where the graph is
            right and the engine does not compute it.
        node: the node's name.
        operator: the node's operator, such as "LSTM".
        output: the name of the value that is off.
        case: the case in whose call the value is off.
        step: the first step that is off in that call; None where the value has no steps.
        error: the largest absolute error of the value.
        allowed: the largest error that passes.
        file: an ONNX file with this node alone, with vectors beside it; None where the node cannot
            run alone.
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
        verdict = {
            "file": "The file is not what was exported",
            "engine": "The file is right, the engine is not",
        }[self.fault]
        step = "" if self.step is None else f" at step {self.step}"
        alone = "" if self.file is None else f" The node alone: {self.file}, with vectors."

        return (
            f"{verdict}: the first value to be off is {self.output!r} of the {self.operator} node "
            f"{self.node!r}, {self.error:.1e}{step} of {self.case}, where {self.allowed:.1e} is "
            f"allowed.{alone}"
        )


#: (model's file, model, engine's options, vectors, failed report, where to write the node alone)
Locate = Callable[[Path, Model, dict[str, Any], Vectors, EngineReport, Path], LocatedFault]


def locator() -> Locate:
    """The exporter's function that locates a fault.

    Raises:
        StateportError: the exporter is not installed here.
    """
    for entry in entry_points(group=GROUP):
        locate: Locate = entry.load()
        return locate

    raise StateportError(
        "To locate a difference takes graph work, which belongs to the exporter; it is not "
        "installed here. Install it: pip install stateport-exporter."
    )
