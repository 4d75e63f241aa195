# SPDX-License-Identifier: Apache-2.0
"""The rewindable stream: it keeps its last states, so that its last calls can be undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .axes import is_count
from .contract import Contract, axis_sizes, check_chunk
from .engines import Engine
from .errors import InputError, StateError
from .owner import owned
from .state import State
from .stream import Stream
from .validation import Array, check_inputs, check_state, initial_state, named_input, single

#: A call with an explicit state: inputs by name and a state -> outputs by name and the next state.
RunModel = Callable[[Mapping[str, Array], State], tuple[dict[str, Array], State]]


class RewindableStream(Stream):
    """A stream that keeps the states before its last calls.

    The states are values in the host's memory, and each call takes the last one. So a call costs a
    copy of the state more than that of a plain stream.
    """

    def __init__(
        self,
        contract: Contract,
        engine: Engine,
        initial: Mapping[str, Array],
        run_model: RunModel,
        history: int,
    ) -> None:
        super().__init__(contract, engine, initial)
        self._run_model = run_model
        self._history = history
        # The states before the last calls, and the current one at the end; empty before the first
        # chunk. It is replaced whole, so that a call that is cut off has taken full effect or none.
        self._states: tuple[State, ...] = ()

    @property
    def rewindable(self) -> int:
        """The number of calls that `rewind` can undo now."""
        return max(len(self._states) - 1, 0)

    @owned
    def rewind(self, calls: int = 1) -> None:
        """Undoes the last calls: the stream continues from the state before them."""
        if not is_count(calls, 1):
            raise InputError(f"calls is {calls!r}; a number of calls was expected, 1 or more.")
        if calls > self.rewindable:
            raise StateError(
                f"rewind({calls}) goes too far back: the calls that can be undone are "
                f"{self.rewindable}. The stream was made with history={self._history}; reset() and "
                "restore() discard earlier states."
            )

        self._states = self._states[:-calls]

    @owned
    def restore(self, state: State) -> None:
        """Continues from a state of this stream or of another one; see `Stream.restore`."""
        check_state(self._contract, state, {})
        self._states = (state,)

    @owned
    def reset(self) -> None:
        """Discards all states: the next chunk begins a new sequence, with any batch size."""
        self._states = ()

    @owned
    def _read(self) -> State:
        if not self._states:
            raise self._no_state()
        return self._states[-1]

    def __copy__(self) -> Stream:
        """Another stream that continues from the same state, with the same history."""
        copy = RewindableStream(
            self._contract, self._engine, self._initial, self._run_model, self._history
        )
        copy._states = self._states
        return copy

    def _feed(self, x: Array) -> Any:
        return single(self._named(self._step(named_input(self._contract, x))))

    def _step(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Checks a chunk and feeds it."""
        sizes = check_inputs(self._contract, inputs)
        check_chunk(self._contract, sizes)
        self._check_sizes(sizes)
        before = self._states or (initial_state(self._contract, self._initial, sizes),)
        outputs, after = self._run_model(inputs, before[-1])

        self._states = (*before, after)[-self._history - 1 :]
        return [outputs[spec.name] for spec in self._contract.outputs]

    def _has_begun(self) -> bool:
        return bool(self._states)

    def _carried_sizes(self) -> dict[str, int]:
        if not self._states:
            return {}
        shapes = {name: array.shape for name, array in self._states[-1].items()}
        return axis_sizes(self._contract.state_inputs, shapes)
