# SPDX-License-Identifier: Apache-2.0
"""Recorded calls, cut into the steps that C takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stateport.axes import names_in, resolve
from stateport.contract import ArraySpec, has_time
from stateport.parity.bounds import FALLBACK, FLOOR_FACTOR
from stateport.parity.vectors import Case, Vectors, call_inputs
from stateport.precision import BUDGETS

from .fixed_step import FixedStep

Array = NDArray[Any]

#: The most steps of a test, and about the most numbers of one array in it.
_MOST_STEPS: Final = 64
_MOST_NUMBERS: Final = 16_384
#: Reduced precision is judged by its noise; single values are farther off than its mean.
_PEAK: Final = 6.0


@dataclass(frozen=True)
class Answer:
    """What PyTorch gave for one output or state.

    Attributes:
        truth: (steps, elements) float64; (1, elements) if only the last step is known.
        allowed: how far an answer may be from it.
    """

    truth: Array
    allowed: float


@dataclass(frozen=True)
class RecordedCase:
    """One sequence of steps.

    Attributes:
        name: the name of the case in the vectors.
        steps: the number of steps.
        inputs: by input, (steps, elements).
        initial: by state input, (elements,); empty for the network's own first state.
        outputs: by output, the answers; outputs that were not recorded whole are left out.
        states: by state input, the answers after the last step, where they are known.
    """

    name: str
    steps: int
    inputs: Mapping[str, Array]
    initial: Mapping[str, Array]
    outputs: Mapping[str, Answer]
    states: Mapping[str, Answer]


def recorded_cases(vectors: Vectors, step: FixedStep, precision: str | None) -> list[RecordedCase]:
    """Up to two cases for a test: one from a random state, and one from the network's first state.

    Args:
        vectors: what was recorded with the model.
        step: the step.
        precision: of the file's weights, if reduced.
    """
    chosen = []
    for is_random in (True, False):
        fitting = [case for case in vectors.cases if bool(case.initial) == is_random]
        usable = [case for case in fitting if _is_usable(case, step)]
        if usable:
            best = max(usable, key=lambda case: _merit(case, step))
            chosen.append(_Cut(vectors, best, step, precision).recorded())
    return [case for case in chosen if case.outputs or case.states]


def _is_usable(case: Case, step: FixedStep) -> bool:
    """Whether a case can be cut into steps: an input without time is new in each call."""
    contract = step.open_contract
    if not has_time(contract):
        return True
    if any("time" not in spec.shape for spec in contract.inputs):
        return set(case.chunks) == {step.time}
    return all(end % step.time == 0 for end in case.ends)


def _merit(case: Case, step: FixedStep) -> tuple[int, bool, bool]:
    """Cases of the most steps in whole calls first, then those of the step's own batch."""
    steps = _whole_calls(case, _MOST_STEPS * step.time)
    is_own = case.sizes.get("batch", step.batch) == step.batch
    return steps, is_own, "reversed" not in case.name


def _whole_calls(case: Case, most: int) -> int:
    """The entries along time of as many whole calls as fit; 0 if the first one does not."""
    return max((end for end in case.ends if end <= most), default=0)


class _Cut:
    """The first steps of a case."""

    def __init__(
        self, vectors: Vectors, case: Case, step: FixedStep, precision: str | None
    ) -> None:
        self._vectors, self._case, self._step, self._precision = vectors, case, step, precision
        self._is_sequence = has_time(step.open_contract)
        self._steps = self._count()
        #: The entries along time, or calls, up to the end.
        self._end = self._steps * step.time

    def recorded(self) -> RecordedCase:
        """The case in steps."""
        contract = self._step.open_contract
        outputs = {}
        for spec in contract.outputs:
            truth = self._truth(spec)
            if truth is not None:
                outputs[spec.name] = Answer(truth, self._allowed(spec.name, truth))

        states = {}
        for state, spec in zip(contract.states, contract.state_outputs, strict=True):
            truth = self._truth(spec)
            if truth is not None:
                states[state.input] = Answer(truth[-1:], self._allowed(spec.name, truth))

        initial = {}
        for spec in contract.state_inputs:
            if spec.name in self._case.initial:
                initial[spec.name] = self._rows(spec, self._case.initial[spec.name]).ravel()
        return RecordedCase(self._case.name, self._steps, self._inputs(), initial, outputs, states)

    def _count(self) -> int:
        """The number of steps: all of them, or as many as a test needs."""
        largest = max(
            int(np.prod([int(size) for size in spec.shape]))
            for spec in (*self._step.contract.inputs, *self._step.contract.outputs)
        )
        most = min(_MOST_STEPS, max(1, _MOST_NUMBERS // max(largest, 1)))
        # The states after whole calls are known.
        entries = _whole_calls(self._case, most * self._step.time) or self._case.chunks[0]
        return max(1, min(entries // self._step.time, most))

    def _inputs(self) -> dict[str, Array]:
        pieces: dict[str, list[Array]] = {spec.name: [] for spec in self._step.open_contract.inputs}
        for call in call_inputs(self._step.open_contract, self._case):
            for spec in self._step.open_contract.inputs:
                pieces[spec.name] += self._in_steps(spec, self._rows(spec, call[spec.name]))
        inputs = {}
        for spec in self._step.open_contract.inputs:
            stacked = np.stack(pieces[spec.name][: self._steps])
            inputs[spec.name] = stacked.astype(spec.dtype).reshape(self._steps, -1)
        return inputs

    def _truth(self, spec: ArraySpec) -> Array | None:
        """(steps, elements), or (1, elements) of the last step; None where it is not known."""
        table = self._case.truth.get(spec.name)
        if table is None or spec.name in self._case.kept:
            return None

        axis = spec.time_axis
        if axis is None:
            return self._truth_of_calls(spec, table)
        if names_in(spec.shape[axis]) != {"time"}:
            return None
        others = [size for number, size in enumerate(spec.shape) if number != axis]
        shape = resolve(others, self._case.sizes)
        whole = np.moveaxis(np.asarray(table).reshape(len(table), *shape), 0, axis)
        steps = self._in_steps(spec, self._rows(spec, whole))[: self._steps]
        return np.stack(steps).astype(np.float64).reshape(len(steps), -1)

    def _truth_of_calls(self, spec: ArraySpec, table: Array) -> Array | None:
        if self._end not in self._case.ends:
            return None
        last = self._case.ends.index(self._end)
        is_every_step = last + 1 == self._steps
        first = 0 if is_every_step else last

        shape = resolve(spec.shape, self._case.sizes)
        rows = [
            self._rows(spec, row.reshape(shape)).ravel()
            for row in np.asarray(table)[first : last + 1]
        ]
        return np.stack(rows).astype(np.float64)

    def _in_steps(self, spec: ArraySpec, array: Array) -> list[Array]:
        """An array of one call, or of all, in pieces of one step."""
        axis = spec.time_axis
        if axis is None:
            return [array]
        each = resolve([spec.shape[axis]], {"time": self._step.time, "batch": self._step.batch})[0]
        return np.split(array, range(each, array.shape[axis], each), axis)

    def _rows(self, spec: ArraySpec, array: Array) -> Array:
        """The array with the step's number of rows: the first ones, or all of them repeatedly."""
        if "batch" not in spec.shape:
            return array
        axis = spec.shape.index("batch")
        rows = np.arange(self._step.batch) % array.shape[axis]
        taken: Array = np.take(array, rows, axis)
        return taken

    def _allowed(self, name: str, truth: Array) -> float:
        """How far an answer may be from the truth."""
        finite = np.abs(truth[np.isfinite(truth)])
        if self._precision is not None:
            rms = float(np.sqrt(np.mean(np.square(finite)))) if finite.size else 0.0
            return _PEAK * rms * 10 ** (-BUDGETS[self._precision] / 20)

        floor = self._vectors.floor.get(name)
        if self._vectors.truth != "float64" or floor is None or not len(floor):
            atol, rtol = FALLBACK
            return atol + rtol * float(finite.max(initial=0.0))
        return FLOOR_FACTOR * float(floor[min(self._end, len(floor)) - 1])
