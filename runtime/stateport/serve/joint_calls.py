# SPDX-License-Identifier: Apache-2.0
"""Calls without a stream that arrive together run as one call of the engine."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np

from ..buffers.stream_buffers import cache_bounded
from ..contract import ArraySpec, Contract
from ..errors import EngineError, StateportError
from ..model import Model
from ..state import State
from ..validation import check_inputs, check_state, judged_by_shape
from .request import Array

#: A call that takes less runs in the event loop itself, in seconds; see `stateport.rounds`.
_SHORT: Final = 1e-3
#: Of how many shapes it is remembered how long their calls take.
_MOST_SHAPES: Final = 1024


@dataclass(frozen=True, slots=True)
class JointAnswer:
    """What one call gave.

    Attributes:
        outputs: the contract's outputs by name.
        state: the state after the call, as `Model.run` gives it.
        waited: seconds from the request to the start of its call of the engine.
        ran: seconds that this call took.
        batch: how many calls ran as this one.
    """

    outputs: dict[str, Array]
    state: State
    waited: float
    ran: float
    batch: int


@dataclass(slots=True, eq=False)
class _Call:
    inputs: Mapping[str, Array]
    state: State
    rows: int
    kind: Hashable
    asked: float
    answer: asyncio.Future[JointAnswer]


_Outcomes = list[tuple[_Call, JointAnswer | Exception]]


class JointCalls:
    """Calls of one model, which the coroutines of one event loop make.

    A call that finds a thread free starts at the end of this turn of the event loop. The calls that
    wait then and have its shapes, apart from the number of rows, join it. They are joined where
    every array has a batch axis, where shapes alone decide whether an array fits, and where no row
    depends on other rows.
    """

    def __init__(self, model: Model, most_rows: int, threads: Executor, most_running: int) -> None:
        """Makes an empty queue.

        Args:
            model: the model.
            most_rows: how many rows calls may have together.
            threads: where the engine works.
            most_running: how many calls of the engine run at once.
        """
        self._model = model
        self._contract = contract = model.contract
        self._axes = None if model._mixed_rows else _batch_axes(contract)
        self._most_rows = min(most_rows, dict(contract.limits).get("batch", most_rows))
        self._threads = threads
        self._most_running = most_running

        #: The calls that wait, by their shapes; first the shapes of the oldest call.
        self._waiting: OrderedDict[Hashable, deque[_Call]] = OrderedDict()
        # How long a call took lately, in seconds, by its shapes and the magnitude of its rows.
        self._took: dict[Hashable, float] = {}
        self._running = 0
        self._is_scheduled = False
        self._is_closed = False

    async def run(self, inputs: Mapping[str, Array], state: State) -> JointAnswer:
        """Makes a call; see `Model.run`.

        Raises:
            InputError: an array does not fit the contract.
            StateError: the state does not fit the contract or the inputs.
            EngineError: the engine failed.
            StateportError: the server stops.
        """
        if self._is_closed:
            raise _closed()
        sizes = check_inputs(self._contract, inputs)
        check_state(self._contract, state, sizes)

        answer: asyncio.Future[JointAnswer] = asyncio.get_running_loop().create_future()
        rows, kind = sizes.get("batch", 1), self._kind_of({**inputs, **state})
        call = _Call(inputs, state, rows, kind, perf_counter(), answer)
        self._waiting.setdefault(kind, deque()).append(call)
        self._schedule()
        return await answer

    def stop(self) -> None:
        """Refuses the calls that wait."""
        self._is_closed = True
        for calls in self._waiting.values():
            for call in calls:
                _settle(call, _closed())
        self._waiting.clear()

    def _kind_of(self, arrays: Mapping[str, Array]) -> Hashable:
        """What is equal for calls that may be joined."""
        if self._axes is None:
            return object()
        shapes = []
        for name, axis in self._axes.inputs.items():
            shape = arrays[name].shape
            shapes.append(shape[:axis] + shape[axis + 1 :])
        return tuple(shapes)

    def _schedule(self) -> None:
        """Begins at the end of this turn, if a thread is free."""
        if self._waiting and self._running < self._most_running and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Starts the oldest call that waits, with those that join it."""
        self._is_scheduled = False
        calls = self._next_calls()
        if calls and self._took.get(_load_of(calls), _SHORT) < _SHORT:
            self._deliver(calls, self._outcomes(calls))
        elif calls:
            self._running += 1
            loop = asyncio.get_running_loop()
            task = loop.run_in_executor(self._threads, self._outcomes, calls)
            task.add_done_callback(lambda task: self._end(calls, task))
        self._schedule()

    def _next_calls(self) -> list[_Call]:
        """Takes the calls for the next call of the engine out of those that wait."""
        if not self._waiting:
            return []

        kind, waiting = self._waiting.popitem(last=False)
        calls: list[_Call] = []
        rows = 0
        while waiting and (not calls or rows + waiting[0].rows <= self._most_rows):
            call = waiting.popleft()
            if not call.answer.done():  # its waiter was cancelled
                calls.append(call)
                rows += call.rows
        if waiting:
            self._waiting[kind] = waiting
        return calls

    def _end(self, calls: list[_Call], task: asyncio.Future[_Outcomes]) -> None:
        self._running -= 1
        if task.cancelled():
            self._deliver(calls, [(call, _closed()) for call in calls])
        else:
            self._deliver(calls, task.result())
        self._schedule()

    def _deliver(self, calls: list[_Call], outcomes: _Outcomes) -> None:
        first = outcomes[0][1]
        if isinstance(first, JointAnswer) and first.batch == len(calls):
            self._note(_load_of(calls), first.ran)
        for call, outcome in outcomes:
            _settle(call, outcome)

    def _note(self, load: Hashable, ran: float) -> None:
        """Remembers how long a call of the engine took: mostly the last ones."""
        before = self._took.pop(load, ran)
        cache_bounded(self._took, load, 0.8 * before + 0.2 * ran, _MOST_SHAPES)

    def _outcomes(self, calls: list[_Call]) -> _Outcomes:
        """Makes calls as one. Those that the engine fails on are found by halving."""
        try:
            return [*zip(calls, self._answers(calls), strict=True)]
        except Exception as error:  # every waiter gets an answer
            if len(calls) == 1:
                return [(calls[0], error)]
            half = len(calls) // 2
            return self._outcomes(calls[:half]) + self._outcomes(calls[half:])

    def _answers(self, calls: list[_Call]) -> list[JointAnswer]:
        began = perf_counter()
        inputs, state = self._joined(calls)
        outputs, after = self._model.run(inputs, state)
        ran = perf_counter() - began

        answers = []
        for call, parts in zip(calls, self._parted(calls, outputs, after), strict=True):
            answers.append(JointAnswer(*parts, began - call.asked, ran, len(calls)))
        return answers

    def _joined(self, calls: list[_Call]) -> tuple[Mapping[str, Array], State]:
        """The inputs and the state of all calls, one after another along the batch axis."""
        if len(calls) == 1 or self._axes is None:
            return calls[0].inputs, calls[0].state

        inputs = _joined([call.inputs for call in calls], self._axes.inputs)
        state = _joined([call.state for call in calls], self._axes.inputs)
        return inputs, State._adopt(state)

    def _parted(
        self, calls: list[_Call], outputs: dict[str, Array], after: State
    ) -> list[tuple[dict[str, Array], State]]:
        """The outputs and the state of each call.

        Raises:
            EngineError: an array has another number of rows than the calls.
        """
        if len(calls) == 1 or self._axes is None:
            return [(outputs, after)]

        rows = [call.rows for call in calls]
        parts = _parted(outputs, self._axes.outputs, rows)
        leftover = after._leftover  # one for all, because it follows from the length
        states = [State._adopt(p, leftover) for p in _parted(after, self._axes.inputs, rows)]
        return [*zip(parts, states, strict=True)]


@dataclass(frozen=True)
class _BatchAxes:
    """The batch axis of each array: of inputs and states, and of outputs that are no states."""

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


def _batch_axes(contract: Contract) -> _BatchAxes | None:
    """The batch axes; None where calls cannot be joined."""
    inputs, states = contract.inputs, contract.state_inputs
    every = (*inputs, *states, *contract.outputs)
    if not judged_by_shape(contract) or any(spec.shape.count("batch") != 1 for spec in every):
        return None
    return _BatchAxes(_axes_of((*inputs, *states)), _axes_of(contract.outputs))


def _axes_of(specs: Sequence[ArraySpec]) -> dict[str, int]:
    return {spec.name: spec.shape.index("batch") for spec in specs}


def _joined(calls: Sequence[Mapping[str, Array]], axes: Mapping[str, int]) -> dict[str, Array]:
    """The arrays of all calls by name, one after another along their batch axes."""
    return {name: np.concatenate([call[name] for call in calls], axes[name]) for name in calls[0]}


def _parted(
    arrays: Mapping[str, Array], axes: Mapping[str, int], rows: Sequence[int]
) -> list[dict[str, Array]]:
    """The arrays of each call, as copies: a view would keep those of all calls in memory."""
    parts: list[dict[str, Array]] = [{} for _ in rows]
    for name, array in arrays.items():
        axis = axes[name]
        if array.shape[axis] != sum(rows):
            raise EngineError(
                f"The engine gave {name!r} of the shape {array.shape} for {sum(rows)} rows; that "
                f"many were expected along axis {axis}."
            )

        before = (slice(None),) * axis
        start = 0
        for part, count in zip(parts, rows, strict=True):
            part[name] = array[(*before, slice(start, start + count))].copy()
            start += count
    return parts


def _load_of(calls: list[_Call]) -> Hashable:
    return calls[0].kind, sum(call.rows for call in calls).bit_length()


def _settle(call: _Call, outcome: JointAnswer | Exception) -> None:
    if call.answer.done():
        return
    if isinstance(outcome, Exception):
        call.answer.set_exception(outcome)
    else:
        call.answer.set_result(outcome)


def _closed() -> StateportError:
    return StateportError("The server stops, and makes no more calls. Send the call again later.")
