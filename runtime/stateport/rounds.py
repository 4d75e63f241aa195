# SPDX-License-Identifier: Apache-2.0
"""Rounds: steps that coroutines ask for run together on a pool, as soon as its engine is free."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, TypeVar

import numpy as np

from .buffers.stream_buffers import cache_bounded
from .contract import check_chunk, names_of
from .errors import EngineError, InputError, StateportError, in_words
from .model import Model
from .picking import sure
from .roster import is_integer
from .state import State
from .validation import Array, check_inputs, check_state, judged_by_shape

_T = TypeVar("_T")

#: How many shapes of chunks are remembered as checked, and how long their calls take.
_MOST_SHAPES: Final = 1024
#: A round that takes less runs in the event loop itself, in seconds. Handing it to the thread and
#: back takes a few tenths of a millisecond on a busy machine, and no other round can run meanwhile.
_SHORT: Final = 1e-3
#: The same while other streams step as well: their steps arrive while the thread works, and join.
_SHORT_BESIDE_OTHERS: Final = 2e-4
#: So many of the latest steps tell whether there are other streams.
_LATEST: Final = 16

_Task = Callable[[], None]


class LostStepError(StateportError):
    """A step was made, and its answer was lost. The stream takes no more steps."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one step of one stream gave.

    Attributes:
        outputs: the contract's outputs, in order, each with a batch axis of size 1.
        state: the state after the step, if it was asked for.
        waited: seconds from the request to the start of its call of the engine.
        ran: seconds that this call took.
        batch: how many streams stepped in this call.
    """

    outputs: Sequence[Array]
    state: State | None
    waited: float
    ran: float
    batch: int


@dataclass(slots=True, eq=False)
class PendingStep:
    """A step that was asked for.

    Attributes:
        stream: the stream.
        inputs: the arrays in the contract's order.
        shapes: the key of their shapes.
        wants_state: whether the answer has the state.
        asked: when it was asked for.
        answer: the answer to come.
        has_begun: whether it belongs to a round. Until then, cancelling `answer` removes it.
        late: the answer to come for a waiter that was cancelled, but records what has happened.
        outcome: the answer or error of a step whose `answer` was cancelled while it ran.
    """

    stream: int
    inputs: Sequence[Array]
    shapes: Hashable
    wants_state: bool
    asked: float
    answer: asyncio.Future[Answer]
    has_begun: bool = False
    late: asyncio.Future[Answer] | None = None
    outcome: Answer | Exception | None = None


@dataclass(slots=True, eq=False)
class _Job:
    """A short change of the pool, for which no round may run."""

    run: Callable[[], Any]
    result: asyncio.Future[Any]


class Rounds:
    """Up to `capacity` streams, which coroutines of one event loop step.

    A step that finds the engine free starts at the end of this turn of the event loop, with all
    that are asked for in the same turn. Steps that arrive while the engine works form the next
    round: the oldest waiting step of each stream. The chunks of one shape are one call of the
    engine.

    The engine works in one thread of its own. Rounds that are known to take less than a millisecond
    run in the event loop; while other streams step too, only those below 0.2 ms do. The pool is
    touched by the thread during a round, and by the event loop between two rounds.
    """

    def __init__(self, model: Model, capacity: int) -> None:
        """Makes a pool of the model, without a stream.

        Raises:
            StreamingError: the network cannot stream, or has no batch axis.
            InputError: `capacity` is not a positive whole number.
        """
        self._contract = contract = model.contract
        self._pool = model.pool(capacity)
        self._names = names_of(contract.inputs)
        self._axes = [spec.shape.index("batch") for spec in contract.inputs]
        self.output_axes = self._pool._output_axes
        self._state_axes = {s.input: s.shape.index("batch") for s in contract.states}

        self._can_remember = judged_by_shape(contract)
        self._dtypes = [np.dtype(spec.dtype) for spec in contract.inputs]
        self._checked: dict[Hashable, None] = {}
        # Asking the pool whether a stream is open looks at all of its streams.
        self._streams: set[int] = set()
        # Streams that have moved on without an answer.
        self._lost: set[int] = set()
        # How long a call took lately, in seconds, by its shapes and the magnitude of its rows.
        self._took: dict[tuple[Hashable, int], float] = {}
        self._latest: deque[int] = deque(maxlen=_LATEST)

        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[PendingStep] = deque()
        self._jobs: deque[_Job] = deque()
        self._is_scheduled = False
        self._is_running = False
        self._is_closed = False
        self._idle: asyncio.Future[None] | None = None

        # The thread refers to the queue alone, so that a pool that nobody holds ends its thread.
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def capacity(self) -> int:
        """The largest number of streams that may be open at once."""
        return self._pool.capacity

    @property
    def waiting(self) -> int:
        """How many steps wait for a round."""
        return len(self._waiting)

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._pool)

    def open(self, state: State | None = None) -> asyncio.Future[int]:
        """Opens a stream, from a state with a batch axis of size 1 or the initial one.

        This and the other changes of the pool happen at once, or when the round that runs has
        ended. They return the result to come, which may be cancelled as long as it is not there.

        Raises:
            InputError: `capacity` streams are open already.
            StateError: the state does not fit the contract.
        """

        def run() -> int:
            if state is not None:
                check_state(self._contract, state, {"batch": 1})
            stream = int(self._pool._open(1, state)[0])
            self._streams.add(stream)
            return stream

        return self._between_rounds(run)

    def close(self, stream: int) -> asyncio.Future[None]:
        """Closes a stream. Its steps that wait for a round are refused.

        Raises:
            InputError: the stream is not open.
        """

        def run() -> None:
            self._pool.close(_checked(stream))
            self._streams.discard(stream)
            self._lost.discard(stream)

        return self._between_rounds(run)

    def state(self, stream: int) -> asyncio.Future[State]:
        """A copy of a stream's state, after the steps that have begun.

        Raises:
            InputError: the stream is not open.
        """
        return self._between_rounds(lambda: self._pool[stream].state)

    def restore(self, stream: int, state: State) -> asyncio.Future[None]:
        """Replaces a stream's state.

        Raises:
            InputError: the stream is not open.
            StateError: the state does not fit the contract.
        """

        def run() -> None:
            self._pool[stream].state = state

        return self._between_rounds(run)

    def step(
        self, stream: int, inputs: Mapping[str, Array], wants_state: bool = False
    ) -> PendingStep:
        """Feeds the next chunk of a stream.

        Args:
            stream: the stream.
            inputs: arrays by name, each with a batch axis of size 1. They must not change before
                the answer is there.
            wants_state: whether the answer has the state after the step.

        Returns:
            The step, whose `answer` is to come. Cancelling that while the step waits removes the
            step; a step that runs is finished, and the stream moves on.

        Raises:
            InputError: the stream is not open, or an array does not fit the contract.
            LostStepError: the answer of an earlier step was lost.
            StateportError: the pool is closed.
        """
        loop = self._running_loop()
        shapes = self.check(inputs)
        refusal = self._refusal(stream)
        if refusal is not None:
            raise refusal

        arrays = [inputs[name] for name in self._names]
        answer = loop.create_future()
        step = PendingStep(stream, arrays, shapes, wants_state, perf_counter(), answer)
        self._waiting.append(step)
        if not self._is_running and not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._begin)
        return step

    def _refusal(self, stream: object) -> StateportError | None:
        """Why a stream takes no step; None if it does."""
        if not is_integer(stream) or stream not in self._streams:
            return _not_open(stream)
        if stream in self._lost:
            return LostStepError(
                f"The stream {stream} has moved on by a step whose answer was lost. Close it, and "
                "begin its sequence anew."
            )
        return None

    async def stop(self) -> None:
        """Refuses the steps that wait, lets the round that runs end, and ends the thread."""
        self._is_closed = True
        for step in self._waiting:
            _settle(step.answer, _closed())
        self._waiting.clear()

        if self._is_running and self._loop is not None:
            self._idle = self._idle or self._loop.create_future()
            await asyncio.shield(self._idle)
        if self._thread is not None:
            self._tasks.put(None)
            self._thread = None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop, which is that of the first use."""
        loop = asyncio.get_running_loop()
        if self._is_closed:
            raise _closed()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise StateportError(
                "This pool is used in another event loop already. Make a pool in each event loop; "
                "they can share the model."
            )
        return loop

    def check(self, inputs: Mapping[str, Array]) -> Hashable:
        """Checks the next chunk of any stream, and returns the key of its shapes.

        Raises:
            InputError: an array is missing or unknown, or does not fit the contract.
        """
        arrays = [*map(inputs.get, self._names)]
        shapes, dtypes = _shapes_and_dtypes(arrays)
        key = (shapes, *dtypes)
        if key in self._checked and len(inputs) == len(arrays):
            return shapes

        self._check_wholly(inputs)
        if self._can_remember and None not in shapes:
            cache_bounded(self._checked, key, None, _MOST_SHAPES)
        return tuple([inputs[name].shape for name in self._names])

    def _check_wholly(self, inputs: Mapping[str, Array]) -> None:
        sizes = check_inputs(self._contract, inputs)
        check_chunk(self._contract, sizes)
        if sizes["batch"] != 1:
            raise InputError(
                f"This chunk has {sizes['batch']} rows along the batch axis; 1 was expected, "
                "because a stream is one sequence. Open a stream for each row."
            )

    def _between_rounds(self, run: Callable[[], _T]) -> asyncio.Future[_T]:
        """Runs a short change of the pool at once, or when the round that runs has ended."""
        job = _Job(run, self._running_loop().create_future())
        if self._is_running:
            self._jobs.append(job)
        else:
            _run_job(job)
        return job.result

    def _begin(self) -> None:
        """Starts a round of the steps that wait."""
        self._is_scheduled = False
        if self._is_running:
            return

        groups = self._next_round()
        if not groups:
            return
        self._is_running = True
        if sum(map(self._expected, groups)) < self._longest_in_loop(groups):
            for steps in groups[:-1]:
                self._deliver(self._answers(steps))
            self._end_round(self._answers(groups[-1]), in_loop=True)
            return
        if self._thread is None:
            self._thread = _start_thread(self, self._tasks)
        self._tasks.put(lambda: self._run_round(groups))

    def _longest_in_loop(self, groups: list[list[PendingStep]]) -> float:
        """How long a round may take in the event loop, in seconds."""
        steps = [step for group in groups for step in group]
        others = {*self._latest} - {step.stream for step in steps}
        self._latest.extend([step.stream for step in steps[:_LATEST]])
        return _SHORT_BESIDE_OTHERS if others else _SHORT

    def _expected(self, steps: list[PendingStep]) -> float:
        """How long the call for steps of one shape will take, in seconds; long if unknown."""
        return self._took.get(_load_of(steps), _SHORT)

    def _next_round(self) -> list[list[PendingStep]]:
        """Takes the oldest step of each stream out of those that wait, grouped by shapes."""
        chosen: dict[int, None] = {}
        groups: dict[Hashable, list[PendingStep]] = {}
        later: deque[PendingStep] = deque()

        for step in self._waiting:
            if step.answer.done():
                continue  # its waiter was cancelled, and nothing has happened
            refusal = self._refusal(step.stream)
            if refusal is not None:
                _settle(step.answer, refusal)
            elif step.stream in chosen:
                later.append(step)
            else:
                chosen[step.stream] = None
                step.has_begun = True
                groups.setdefault(step.shapes, []).append(step)

        self._waiting = later
        return [*groups.values()]

    def _run_round(self, groups: list[list[PendingStep]]) -> None:
        """Runs a round, in the thread; the answers of each group leave at once."""
        loop = sure(self._loop)
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits
            for steps in groups[:-1]:
                loop.call_soon_threadsafe(self._deliver, self._answers(steps))
            loop.call_soon_threadsafe(self._end_round, self._answers(groups[-1]))

    def _answers(self, steps: list[PendingStep]) -> list[tuple[PendingStep, Answer | Exception]]:
        """Runs steps of one shape. Those that the engine fails on are found by halving."""
        began = perf_counter()
        try:
            if len(steps) > 1:
                steps = self._in_fastest_order(steps)
            streams = np.array([step.stream for step in steps])
            outputs = self._step_pool(streams, steps)
        except Exception as error:  # every waiter gets an answer, and no state has changed
            if len(steps) == 1:
                return [(steps[0], error)]
            half = len(steps) // 2
            return self._answers(steps[:half]) + self._answers(steps[half:])

        ran = perf_counter() - began
        self._note(_load_of(steps), ran)
        try:
            states = self._states_after(streams, steps)
            rows = _rows(outputs, self.output_axes, len(steps))
        except Exception as error:  # the states have changed, so that no step may be made again
            return [(step, _lost(step.stream, error)) for step in steps]
        return [
            (step, Answer(row, state, began - step.asked, ran, len(steps)))
            for step, row, state in zip(steps, rows, states, strict=True)
        ]

    def _note(self, load: tuple[Hashable, int], ran: float) -> None:
        """Remembers how long a call took: mostly the last ones."""
        before = self._took.pop(load, ran)
        cache_bounded(self._took, load, 0.8 * before + 0.2 * ran, _MOST_SHAPES)

    def _in_fastest_order(self, steps: list[PendingStep]) -> list[PendingStep]:
        """The steps in the order of the pool's rows, if they are of all streams."""
        if len(steps) != len(self._pool):
            return steps
        by_stream = {step.stream: step for step in steps}
        return [by_stream[stream] for stream in self._pool.streams.tolist()]

    def _step_pool(self, streams: Array, steps: list[PendingStep]) -> list[Array]:
        if len(steps) == 1:
            arrays = steps[0].inputs
        else:
            arrays = [
                np.concatenate([step.inputs[number] for step in steps], axis)
                for number, axis in enumerate(self._axes)
            ]

        if len(arrays) == 1 and type(arrays[0]) is np.ndarray:
            outputs = self._pool.step(streams, arrays[0])
        else:
            outputs = self._pool.step(streams, dict(zip(self._names, arrays, strict=True)))
        return [outputs] if isinstance(outputs, np.ndarray) else [*outputs.values()]

    def _states_after(self, streams: Array, steps: list[PendingStep]) -> list[State | None]:
        """For each step, the state after it, if it was asked for."""
        if not any(step.wants_state for step in steps):
            return [None] * len(steps)

        together = self._pool._read_rows(streams)
        if len(steps) == 1:
            return [together]
        states: list[State | None] = []
        for row, step in enumerate(steps):
            arrays = {
                name: array.take([row], self._state_axes[name]) for name, array in together.items()
            }
            states.append(State._adopt(arrays) if step.wants_state else None)
        return states

    def _deliver(self, answers: list[tuple[PendingStep, Answer | Exception]]) -> None:
        for step, answer in answers:
            if isinstance(answer, LostStepError) and step.stream in self._streams:
                self._lost.add(step.stream)
            if not step.answer.done():
                _settle(step.answer, answer)
                continue
            step.outcome = answer  # the waiter was cancelled
            if step.late is not None:
                _settle(step.late, answer)

    def _end_round(
        self, answers: list[tuple[PendingStep, Answer | Exception]], in_loop: bool = False
    ) -> None:
        """Delivers the last answers of a round, makes the changes that wait, and goes on."""
        self._is_running = False
        self._deliver(answers)
        while self._jobs:
            job = self._jobs.popleft()
            if not job.result.done():
                _run_job(job)

        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        if not in_loop:
            self._begin()
        elif self._waiting and not self._is_scheduled:
            self._is_scheduled = True  # others may be ready to join
            asyncio.get_running_loop().call_soon(self._begin)


async def answer_of(step: PendingStep) -> tuple[Answer, bool]:
    """Waits for a step, to its end if it has begun, so that the caller can record it.

    Returns:
        The answer, and whether the caller was cancelled meanwhile. The caller raises that later.

    Raises:
        CancelledError: the caller was cancelled, and the step will never run.
        InputError: the stream was closed.
        EngineError: the engine failed. The state has not changed.
        LostStepError: the state has changed, and there is no answer.
    """
    try:
        return await step.answer, False
    except asyncio.CancelledError:
        if not step.has_begun:
            raise
    if not step.answer.cancelled():
        return step.answer.result(), True

    while step.outcome is None:
        step.late = asyncio.get_running_loop().create_future()
        with contextlib.suppress(asyncio.CancelledError):
            await step.late
    if isinstance(step.outcome, Exception):
        raise step.outcome
    return step.outcome, True


def _load_of(steps: list[PendingStep]) -> tuple[Hashable, int]:
    return steps[0].shapes, len(steps).bit_length()


def _run_job(job: _Job) -> None:
    try:
        result = job.run()
    except Exception as error:  # it belongs to the one who waits
        job.result.set_exception(error)
    else:
        job.result.set_result(result)


def _rows(outputs: Sequence[Array], axes: Sequence[int | None], count: int) -> list[list[Array]]:
    """For each row, its part of every output, with a batch axis of size 1; constants are copied.

    Raises:
        EngineError: an output has another number of rows.
    """
    for output, axis in zip(outputs, axes, strict=True):
        if axis is not None and output.shape[axis] != count:
            raise EngineError(
                f"The engine gave an output of the shape {output.shape} for {count} streams; "
                f"{count} rows along axis {axis} were expected."
            )
    if count == 1:
        return [[*outputs]]

    rows: list[list[Array]] = [[] for _ in range(count)]
    for output, axis in zip(outputs, axes, strict=True):
        before = (slice(None),) * (axis or 0)
        for number, row in enumerate(rows):
            if axis is None:
                row.append(output.copy())
            else:
                row.append(output[(*before, slice(number, number + 1))])
    return rows


def _start_thread(owner: object, tasks: queue.SimpleQueue[_Task | None]) -> threading.Thread:
    """A thread that runs tasks until None comes, or until nobody refers to the owner."""
    thread = threading.Thread(target=_work, args=(tasks,), name="stateport-rounds", daemon=True)
    thread.start()
    weakref.finalize(owner, tasks.put, None)
    return thread


def _work(tasks: queue.SimpleQueue[_Task | None]) -> None:
    task = tasks.get()
    while task is not None:
        task()
        del task
        task = tasks.get()


def _settle(future: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    """Gives a waiter its answer or its error, unless it has gone away."""
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _shapes_and_dtypes(arrays: Sequence[Any]) -> tuple[tuple[Any, ...], list[Any]]:
    """The shape of each, None where it is no array; and the dtypes of the arrays."""
    shapes = tuple([x.shape if type(x) is np.ndarray else None for x in arrays])
    return shapes, [x.dtype for x in arrays if type(x) is np.ndarray]


def _checked(stream: int) -> int:
    if not is_integer(stream):
        raise _not_open(stream)
    return stream


def _lost(stream: int, error: Exception) -> LostStepError:
    lost = LostStepError(
        f"The stream {stream} has made this step, but its answer was lost: {in_words(error)}. "
        "Close it, and begin its sequence anew."
    )
    lost.__cause__ = error
    return lost


def _not_open(stream: object) -> InputError:
    return InputError(
        f"There is no open stream {stream!r} in this pool: it was closed, or open() never returned "
        "it."
    )


def _closed() -> StateportError:
    return StateportError("The pool is closed. Make another one: AsyncPool(model, capacity).")
