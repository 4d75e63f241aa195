"""The faults of the mutation suite, one file per kind."""

from __future__ import annotations

from typing import Final

from .directions import DIRECTIONS
from .fault import Applied, Change, Fault
from .gates import GATES
from .results import RESULTS
from .shapes import SHAPES
from .states import STATES
from .weights import WEIGHTS

__all__ = ["FAULTS", "Applied", "Change", "Fault"]

FAULTS: Final[tuple[Fault, ...]] = (
    *GATES,
    *WEIGHTS,
    *STATES,
    *DIRECTIONS,
    *RESULTS,
    *SHAPES,
)
