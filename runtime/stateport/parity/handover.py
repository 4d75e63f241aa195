# SPDX-License-Identifier: Apache-2.0
"""A sequence that begins on one engine and is continued on another."""

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
    """The case with the most calls; None where no state goes from one call to another."""
    case = max(vectors.cases, key=lambda case: len(case.chunks))
    if vectors.contract.states and len(case.chunks) > 1:
        return case
    return None


def hand_over(model: Model, case: Case, folder: Path) -> None:
    """Runs the first half of a case's calls; writes their answers and the state after them."""
    answers, state = run_case(model, case, last=len(case.chunks) // 2)
    assert state is not None
    folder.mkdir()

    arrays = {}
    for name, calls in answers.items():
        for number, array in enumerate(calls):
            arrays[_key(number, name)] = np.array(array, order="C")  # safetensors takes no strides

    safetensors.numpy.save_file(arrays, folder / _ANSWERS)
    state.save(folder / _STATE)


def take_over(
    model: Model, vectors: Vectors, case: Case, folder: Path, bound: Bound
) -> list[Measurement]:
    """Continues from another engine's state, and judges the whole sequence of both engines.

    Args:
        model: the model, loaded into the engine that continues.
        vectors: the recorded answers.
        case: the case that `hand_over` ran half of.
        folder: the folder that `hand_over` wrote.
        bound: the bound on errors.
    """
    half = len(case.chunks) // 2
    before = safetensors.numpy.load_file(folder / _ANSWERS)
    after, _ = run_case(model, case, first=half, state=State.load(folder / _STATE))

    whole = {}
    for spec in results(model.contract):
        first_half = [before[_key(number, spec.name)] for number in range(half)]
        whole[spec.name] = [*first_half, *after[spec.name]]
    return list(compare(model.contract, vectors, case, whole, bound))


def _key(number: int, name: str) -> str:
    """The key of an array in the file of answers: the call's number, and the output's name."""
    return f"{number}/{name}"
