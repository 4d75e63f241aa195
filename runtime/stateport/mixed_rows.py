# SPDX-License-Identifier: Apache-2.0
"""Whether the rows of a batch see each other, found by running the file.

Sequences of different people share a batch in pools and in the server. In a network that computes
something over the batch, as its mean, each of them would change the answers of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from .contract import ArraySpec, Contract, axis_names, names_of
from .engines import Engine
from .engines.base import answers
from .errors import StateportError
from .precision import BUDGETS
from .probed_axes import draw, steps_of_run
from .validation import Array

#: The number of steps of a call, before the contract's multiple; and sizes of unnamed axes.
_TIME: Final = 64
_FREE: Final = 48
#: The other row is replaced once for each of these, by numbers that are multiplied by it. A network
#: may look at other rows where they are loud. Rounding to integers always does, within its budget.
_AMPLITUDES: Final = (1.0, 1.0, 100.0)
_AMPLITUDES_OF_INTEGERS: Final = (1.0, 1.0)
#: The signal-to-noise ratio of float32 that counts as the same, in decibels; and by how much two
#: calls of a lower precision may be farther apart than its budget, because both are inexact.
_SAME: Final = 80.0
_BOTH_INEXACT: Final = 6.0


def find_mixed_rows(contract: Contract, engine: Engine, precision: str) -> str | None:
    """The first output or state whose rows depend on other rows of the batch.

    The second of two rows is replaced. The first one has to give the same answers.

    Args:
        contract: the contract of the file.
        engine: has loaded the file.
        precision: what the file or the engine computes in, as "float32" or "int8".

    Returns:
        The name; None where all rows are independent, or where the engine takes no two rows.
    """
    try:
        amplitudes = _AMPLITUDES if precision == "float32" else _AMPLITUDES_OF_INTEGERS
        for spec, before, after in _with_second_row_replaced(contract, engine, amplitudes):
            if not _has_same_first_row(spec, before, after, precision):
                return spec.name
    except (StateportError, KeyError):  # a size that the file does not take
        return None
    return None


def _with_second_row_replaced(
    contract: Contract, engine: Engine, amplitudes: Iterable[float]
) -> Iterator[tuple[ArraySpec, Array, Array]]:
    """The answers that have rows, each before and after the second row of all inputs is replaced.

    It is replaced once for each amplitude, by which floating-point numbers are multiplied.

    Raises:
        StateportError, KeyError: the file does not take two rows.
    """
    specs = (*contract.inputs, *contract.state_inputs)
    sizes = {**dict.fromkeys(axis_names(specs), _FREE), "batch": 2, "time": _steps(contract)}
    results = []
    for spec in (*contract.outputs, *contract.state_outputs):
        if "batch" in spec.shape:
            results.append(spec)
    names = names_of(results)

    random = np.random.default_rng(0)
    arrays = {spec.name: draw(spec, sizes, random) for spec in specs}
    before = answers(engine, arrays, names)

    for amplitude in amplitudes:
        replaced = {}
        for spec in specs:
            other = draw(spec, sizes, random)
            if other.dtype.kind == "f":
                other = other * other.dtype.type(amplitude)
            replaced[spec.name] = _with_first_row(spec, other, arrays[spec.name])

        after = answers(engine, replaced, names)
        for spec in results:
            yield spec, before[spec.name], after[spec.name]


def _steps(contract: Contract) -> int:
    """The number of steps of a call, as far as the contract allows it."""
    most = dict(contract.limits).get("time")
    steps = steps_of_run(contract, _TIME)
    if most is None:
        return steps
    return min(steps, most - most % contract.step_multiple)


def _with_first_row(spec: ArraySpec, other: Array, array: Array) -> Array:
    """Another array, with the first row of an array; the same array where it has no rows."""
    if "batch" not in spec.shape:
        return array

    first_row = [slice(None)] * array.ndim
    first_row[spec.shape.index("batch")] = slice(0, 1)
    other[tuple(first_row)] = array[tuple(first_row)]
    return other


def _has_same_first_row(spec: ArraySpec, before: Array, after: Array, precision: str) -> bool:
    axis = spec.shape.index("batch")
    if before.shape != after.shape or before.shape[axis] == 0:
        return False
    first = before.take(0, axis)
    again = after.take(0, axis)
    if first.dtype.kind != "f":
        return np.array_equal(first, again)

    is_number = np.isfinite(first) & np.isfinite(again)
    signal = np.where(is_number, first, 0).astype(np.float64)
    noise = np.where(is_number, again, 0).astype(np.float64) - signal
    decibels = BUDGETS.get(precision, _SAME) - _BOTH_INEXACT
    most = 10 ** (-decibels / 20) * np.sqrt(np.mean(np.square(signal)))
    return bool(np.sqrt(np.mean(np.square(noise))) <= most)
