# SPDX-License-Identifier: Apache-2.0
"""Running the calls of a recorded case on a model, and keeping every answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from numpy.typing import NDArray

from ..model import Model
from ..state import State
from .vectors import Case, call_inputs, results

Array = NDArray[Any]

#: By output and state output, what each call gave.
Answers = dict[str, list[Array]]


def run_case(
    model: Model,
    case: Case,
    *,
    first: int = 0,
    last: int | None = None,
    state: State | None = None,
) -> tuple[Answers, State | None]:
    """Runs a case's calls from `first` on, and before `last`.

    Args:
        model: the model, loaded into an engine.
        case: the recorded calls.
        first: the number of the first call, counted from 0.
        last: the number of the call to stop before; by default all are made.
        state: the state before the first call; by default the case's own.

    Returns:
        The answers, and the state after the last call.

    Raises:
        EngineError: the engine failed.
        InputError, StateError, StreamingError: the model takes no such calls.
    """
    case = fitted(model, case)
    if state is None and case.initial:
        state = State(case.initial)

    answers: Answers = {spec.name: [] for spec in results(model.contract)}
    calls = islice(call_inputs(model.contract, case), first, last)

    if case.through == "stream":
        return answers, _run_through_stream(model, calls, state, answers)
    return answers, _run_through_model(model, calls, state, answers)


def _run_through_stream(
    model: Model, calls: Iterable[dict[str, Array]], state: State | None, answers: Answers
) -> State:
    stream = model.stream()
    if state is not None:
        stream.restore(state)

    record = _recorder(model, answers)
    for inputs in calls:
        outputs = stream.run(inputs)
        record(outputs, stream._buffers.read())  # the arrays of `stream.state`, without a State
    return stream.state


def _run_through_model(
    model: Model, calls: Iterable[dict[str, Array]], state: State | None, answers: Answers
) -> State | None:
    record = _recorder(model, answers)
    for inputs in calls:
        outputs, state = model.run(inputs, state)
        record(outputs, state._arrays)
    return state


def _recorder(
    model: Model, answers: Answers
) -> Callable[[Mapping[str, Array], Mapping[str, Array]], None]:
    """A function that adds the outputs and the states of one call to the answers."""
    # A call of a small network takes some ten microseconds, and there are thousands: all that can
    # be looked up is looked up before.
    append = {name: arrays.append for name, arrays in answers.items()}
    states = [(spec.input, append[spec.output]) for spec in model.contract.states]

    def record(outputs: Mapping[str, Array], after: Mapping[str, Array]) -> None:
        for name, array in outputs.items():
            append[name](array)
        for name, append_state in states:
            append_state(after[name])

    return record


def fitted(model: Model, case: Case) -> Case:
    """The case with its arrays in the model's dtypes.

    The rounding of the inputs is a part of what a float16 model loses.
    """
    specs = (*model.contract.inputs, *model.contract.state_inputs)
    dtypes = {spec.name: spec.dtype for spec in specs}

    def fit(arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        return {name: array.astype(dtypes[name], copy=False) for name, array in arrays.items()}

    return replace(case, inputs=fit(case.inputs), initial=fit(case.initial))
