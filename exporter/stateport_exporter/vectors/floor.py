# SPDX-License-Identifier: Apache-2.0
"""The floor: what float32 itself loses against the truth, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stateport.contract import ArraySpec, Contract
from stateport.parity.vectors import Rows, results, row_errors

Array = NDArray[Any]


def raise_floor(floor: Array, spec: ArraySpec, answer: Rows, truth: Array) -> None:
    """Raises the floor of an output, in place, to the errors of an answer.

    It is at least half a unit in the last place of the largest value of a step: any other order of
    summation may be off by that.

    Args:
        floor: (steps,) float64.
        spec: the output.
        answer: what was computed in float32.
        truth: (rows, elements), what it should have been.
    """
    errors = row_errors(answer.table, truth)
    least: Array | float = 0.0
    if spec.dtype.startswith("float"):
        largest = finite_sizes(truth).max(axis=1, initial=0.0)
        least = largest * (np.finfo(np.float32).eps / 2)

    raised = np.where(np.isfinite(errors), np.maximum(errors, least), least)
    np.maximum.at(floor, answer.steps, raised)


def no_floor(contract: Contract, steps: int) -> dict[str, Array]:
    """A floor of zeros for each result: (steps,) float64."""
    return {spec.name: np.zeros(steps) for spec in results(contract)}


def looking_ahead(floor: Mapping[str, Array]) -> dict[str, Array]:
    """The largest floor so far of each result, taken a little later; see `look_ahead`."""
    return {name: look_ahead(np.maximum.accumulate(steps)) for name, steps in floor.items()}


def finite_sizes(table: Array) -> Array:
    """Absolute values, with 0 for infinity and NaN."""
    return np.abs(table, where=np.isfinite(table), out=np.zeros(table.shape))


def look_ahead(floor: Array) -> Array:
    """The floor of each step taken an eighth of the steps so far later.

    In a network that amplifies small differences, errors grow exponentially. How large they are at
    a step depends on the very first roundings, so an engine's errors may be earlier than those that
    were measured. Where errors do not grow, this changes nothing.
    """
    steps = np.arange(len(floor))
    ahead: Array = floor[np.minimum(steps + steps // 8, len(floor) - 1)]
    return ahead
