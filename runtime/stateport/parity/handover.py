"""A sequence that begins on one engine and goes on with another."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import safetensors.numpy

from ..model import Model
from ..state import State
from .bounds import Bound
from .engine_report import Measurement, compare
from .run_case import run_case
from .vectors import Case, Vectors, results

_STATE: Final = "state.safetensors"
_ANSWERS: Final = "answers.safetensors"


def handover_case(vectors: Vectors) -> Case | None:
    """The case with the most calls; None where nothing goes from call to call."""
    case = max(vectors.cases, key=lambda case: len(case.chunks))
    return case if vectors.contract.states and len(case.chunks) > 1 else None


def hand_over(model: Model, case: Case, folder: Path) -> None:
    """Runs the first half of a case's calls, and writes the answers and the state after them."""
    answers, state = run_case(model, case, last=len(case.chunks) // 2)
    assert state is not None
    folder.mkdir()
    arrays = {
        f"{number}/{name}": np.array(array, order="C")  # safetensors takes no strides
        for name, given in answers.items()
        for number, array in enumerate(given)
    }
    safetensors.numpy.save_file(arrays, folder / _ANSWERS)
    state.save(folder / _STATE)


def take_over(
    model: Model, vectors: Vectors, case: Case, folder: Path, bound: Bound
) -> list[Measurement]:
    """Goes on from another engine's state, and judges the whole sequence that both gave."""
    half = len(case.chunks) // 2
    before = safetensors.numpy.load_file(folder / _ANSWERS)
    after, _ = run_case(model, case, first=half, state=State.load(folder / _STATE))
    whole = {
        spec.name: [*(before[f"{number}/{spec.name}"] for number in range(half)), *after[spec.name]]
        for spec in results(model.contract)
    }
    return list(compare(model.contract, vectors, case, whole, bound))
