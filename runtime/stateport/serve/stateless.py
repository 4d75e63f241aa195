# SPDX-License-Identifier: Apache-2.0
"""Calls without a stream: explicit states in, explicit states out."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from ..contract import names_of
from ..errors import StateError
from ..picking import without
from ..state import State, check_can_go_on
from .errors import ServeError, Status
from .joint_calls import JointCalls
from .observe import Observer
from .request import Array, Request
from .served import Served

#: How many calls of the engine run at once.
_MOST_RUNNING: Final = 2


class Stateless:
    """Runs calls without a stream, those of one model that arrive together as one."""

    def __init__(self, most_rows: int, observer: Observer) -> None:
        self._most_rows = most_rows
        self._threads = ThreadPoolExecutor(_MOST_RUNNING, "stateport-stateless")
        self._observer = observer
        #: By the model's name, the model that it stands for now, and its calls.
        self._calls: dict[str, tuple[Served, JointCalls]] = {}

    def stop(self) -> None:
        """Ends the threads, after the calls that run."""
        for _, calls in self._calls.values():
            calls.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def infer(self, served: Served, request: Request) -> dict[str, Array]:
        """Runs one call.

        Raises:
            ServeError: INVALID, because a stream was meant, or an array is missing or does not fit.
            InputError: an array does not fit the contract; or a state is asked for that lacks the
                last steps of the call, so that no call can go on from it.
            EngineError: the engine failed.
        """
        inputs, state = _parts(served, request)
        answer = await self._calls_of(served).run(inputs, state)

        served.statistics.count_step(answer.waited, answer.ran, answer.batch)
        self._observer.step(served.name, answer.waited, answer.ran, answer.batch)
        return {**answer.outputs, **_states_after(served, request, answer.state)}

    def _calls_of(self, served: Served) -> JointCalls:
        """The calls of a model; those of one that it replaces end by themselves."""
        known = self._calls.get(served.name)
        if known is not None and known[0] is served:
            return known[1]

        calls = JointCalls(served.model, self._most_rows, self._threads, _MOST_RUNNING)
        self._calls[served.name] = served, calls
        return calls


def _states_after(served: Served, request: Request, after: State) -> dict[str, Array]:
    """The states after the call, by the names of their outputs; none if no call can go on from it.

    A client could not tell such a state from another one, and would go on from it. So it gets the
    other outputs alone, or, if it asks for a state by name, a refusal.
    """
    states = {spec.output: after[spec.input] for spec in served.contract.states}
    try:
        check_can_go_on(after)
    except StateError:
        if any(name in states for name in request.outputs):
            raise
        return {}
    return states


def _parts(served: Served, request: Request) -> tuple[Mapping[str, Array], State]:
    """The inputs that are no states, and the state."""
    if request.start or request.end or request.step is not None:
        raise _no_id(served)

    state = _state(served, request.inputs)
    inputs = {name: array for name, array in request.inputs.items() if name not in state}
    return inputs, state


def _state(served: Served, arrays: Mapping[str, Array]) -> State:
    """The state among the arrays; an empty one for a model without states."""
    names = names_of(served.contract.state_inputs)
    missing = without(names, arrays)
    if names and len(missing) == len(names):
        raise _no_id(served)
    if missing:
        raise StateError(
            f"The state {missing[0]!r} is missing; a call without a sequence takes all of "
            f"{', '.join(map(repr, names))}."
        )
    return State({name: arrays[name] for name in names})


def _no_id(served: Served) -> ServeError:
    """Triton's sentence, and what else can be done."""
    states = ", ".join(repr(spec.input) for spec in served.contract.states)
    advice = f", or give the states {states} for a call without a sequence" if states else ""
    return ServeError(
        Status.INVALID,
        f"inference request to model '{served.name}' must specify a non-zero or non-empty "
        f"correlation ID: give the request a sequence_id{advice}.",
    )
