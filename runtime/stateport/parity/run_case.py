"""Running the calls of a recorded case on a model, and keeping every answer."""

from __future__ import annotations

from collections.abc import Mapping
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
        model: the model, in the engine that is asked.
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
    # A call of a small network takes some ten microseconds, and there are thousands.
    keep = {name: given.append for name, given in answers.items()}
    states = [(spec.input, keep[spec.output]) for spec in model.contract.states]
    stream = model.stream() if case.through == "stream" else None
    if stream is not None and state is not None:
        stream.restore(state)
    for inputs in islice(call_inputs(model.contract, case), first, last):
        if stream is not None:
            outputs = stream.run(inputs)
            after = stream._buffers.read()  # as stream.state, but for the value around it
        else:
            outputs, state = model.run(inputs, state)
            after = state._arrays
        for name, array in outputs.items():
            keep[name](array)
        for name, keep_state in states:
            keep_state(after[name])
    return answers, state if stream is None else stream.state


def fitted(model: Model, case: Case) -> Case:
    """In the model's dtypes: to round what is fed is part of what a float16 model loses."""
    specs = (*model.contract.inputs, *model.contract.state_inputs)
    dtypes = {spec.name: spec.dtype for spec in specs}

    def fit(arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        return {name: array.astype(dtypes[name], copy=False) for name, array in arrays.items()}

    return replace(case, inputs=fit(case.inputs), initial=fit(case.initial))
