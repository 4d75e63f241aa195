# SPDX-License-Identifier: Apache-2.0
"""The pool for coroutines: steps that are asked for together run as one call of the engine."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NoReturn

from .chunks import batch_of_one
from .contract import names_of
from .errors import StateportError
from .model import Model
from .rounds import Rounds
from .state import State
from .validation import Array, named_input, single


class AsyncPool:
    """Up to `capacity` sequences, which the coroutines of one event loop step together.

    >>> async with stateport.AsyncPool(model, capacity=1024) as pool:
    ...     stream = await pool.open()
    ...     y = await pool.step(stream, x)

    The engine works in a thread of its own. A call that is known to take less than a millisecond
    runs in the event loop (less than 0.2 ms, while other streams step too). A step that finds the
    engine free starts at once, with all that are asked for in the same turn of the event loop.
    Steps that arrive while the engine works form the next round. Chunks of one round may differ in
    length; those of one length step together. The steps of one stream run in the order in which
    they are asked for.

    A step whose waiter is cancelled either never runs, or it runs to its end, and then the stream
    has moved on. A chunk that does not fit is refused for its stream alone. If the engine fails on
    the chunk of one stream, the other streams of the round still get their answers.

    A stream is an integer that `open` returns. The integer of a closed stream is never valid again.
    """

    def __init__(self, model: Model, capacity: int) -> None:
        """Makes a pool without streams.

        Args:
            model: the loaded model, which several pools may share.
            capacity: the largest number of streams that may be open at once.

        Raises:
            StreamingError: the network cannot stream, or has no batch axis.
            InputError: `capacity` is not a positive whole number.
        """
        self._contract = model.contract
        self._rounds = Rounds(model, capacity)
        inputs = self._contract.inputs
        outputs = self._contract.outputs
        self._axes = {spec.name: spec.shape.index("batch") for spec in inputs}
        names = names_of(outputs)
        self._output_axes = dict(zip(names, self._rounds.output_axes, strict=True))

    @property
    def capacity(self) -> int:
        """The largest number of streams that may be open at once."""
        return self._rounds.capacity

    @property
    def waiting(self) -> int:
        """How many steps wait for the engine."""
        return self._rounds.waiting

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._rounds)

    async def open(self, state: State | None = None) -> int:
        """Opens a stream.

        Args:
            state: the state to start from, with a batch axis of size 1. By default the contract's
                initial state.

        Raises:
            InputError: `capacity` streams are open already.
            StateError: the state does not fit the contract.
        """
        opening = self._rounds.open(state)
        try:
            return await opening
        except CancelledError:
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                self._rounds.close(opening.result())  # nobody gets the stream's number
            raise

    async def close(self, stream: int) -> None:
        """Closes a stream, and discards its state. Its steps that still wait are refused.

        Raises:
            InputError: the stream is not open.
        """
        await self._rounds.close(stream)

    async def step(self, stream: int, x: Array | Mapping[str, Array]) -> Any:
        """Feeds the next chunk of a stream.

        Args:
            stream: the stream.
            x: the chunk without the batch axis, e.g. float32 (time, 5); for a model with several
                inputs, a dict of such arrays. It must not change until the answer is there.

        Returns:
            The output without the batch axis, or a dict of such arrays if the model has several.

        Raises:
            InputError: the stream is not open, or `x` does not fit the contract.
            EngineError: the engine failed on this chunk. The stream's state has not changed.
            StateportError: the pool is closed, or belongs to another event loop; or the step was
                made, but there was no memory for its answer, and the stream takes no more steps.
        """
        if isinstance(x, Mapping):
            named = x
        else:
            named = named_input(self._contract, x, "await step(stream, {name: array})")

        # Names that the contract lacks are left for the check of the whole chunk.
        rows = {name: batch_of_one(array, self._axes.get(name, 0)) for name, array in named.items()}
        answer = await self._rounds.step(stream, rows).answer

        outputs = zip(self._output_axes.items(), answer.outputs, strict=True)
        chunks = {}
        for (name, axis), array in outputs:  # a constant output has no batch axis
            chunks[name] = array if axis is None else array.take(0, axis)
        return single(chunks)

    async def state(self, stream: int) -> State:
        """A copy of a stream's state, with a batch axis of size 1.

        A step that runs is waited for, so that the state is never torn. Steps that wait are not.

        Raises:
            InputError: the stream is not open.
        """
        return await self._rounds.state(stream)

    async def restore(self, stream: int, state: State) -> None:
        """Replaces a stream's state by a state of this stream or of another one.

        Raises:
            InputError: the stream is not open.
            StateError: the state does not fit the contract.
        """
        await self._rounds.restore(stream, state)

    async def aclose(self) -> None:
        """Ends the pool: the steps that run are finished, and those that wait are refused."""
        await self._rounds.stop()

    async def __aenter__(self) -> AsyncPool:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> NoReturn:
        """Refuses copies and pickles.

        Raises:
            StateportError: always.
        """
        raise StateportError(
            "A pool cannot be copied or pickled. Open streams in another pool with the states of "
            "this one: await other.open(await pool.state(stream)). A state can be saved to a file."
        )

    def __repr__(self) -> str:
        return f"<stateport.AsyncPool of {len(self)} streams, at most {self.capacity}>"
