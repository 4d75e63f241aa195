"""The stream: one live sequence, a model and its current state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .arrays import Array, check_inputs, check_state, initial_state, named_input
from .carrier import Carrier, Quick
from .contract import Contract, axis_sizes, check_chunk, check_streaming
from .engines import Engine
from .errors import EngineError, InputError, StateError
from .state import State


class Stream:
    """One live sequence, fed chunk by chunk.

    It has one owner: calls from several threads at once are not allowed, while different streams
    of one model may run at the same time and never see each other. The state stays in the engine
    (on the GPU with `ort-cuda`). A call that fails leaves it as it was.
    """

    def __init__(self, contract: Contract, engine: Engine, initial: Mapping[str, Array]) -> None:
        check_streaming(contract)
        self._contract = contract
        self._carrier = Carrier(contract, engine)
        one = len(contract.inputs) == len(contract.outputs) == 1
        self._single = (contract.inputs[0].name, contract.outputs[0].name) if one else None
        self._initial = initial
        self._fixed: dict[str, int] | None = None  # the state's axis sizes, while there is one
        self._begun = False  # whether the state is more than what a first call started from
        self._checked: dict[tuple[int, ...], np.dtype[Any]] = {}  # single inputs: shape and dtype
        self._quick: Quick | None = None  # for chunks like the last one

    def __call__(self, x: Array) -> Any:
        """Feeds the next chunk and returns its output; several outputs come as a dict by name.

        Args:
            x: the chunk, with dtype and shape as the contract says, e.g. float32 (batch, time, 5).

        Raises:
            InputError: `x` does not fit the contract or the batch size of this sequence.
            EngineError: the engine failed.
        """
        # Chunks like the one before go straight to the engine, and in this very frame: a large
        # network sweeps the caches clean in every step, so that each of Python's costs tenths of a
        # microsecond. It is what Carrier.step does.
        quick = self._quick
        if (
            quick is not None
            and type(x) is np.ndarray
            and x.shape == quick.shape
            and x.dtype is quick.dtype
        ):
            quick.input[...] = x
            carrier = self._carrier
            turn = carrier.turn
            quick.calls[turn]()
            carrier.turn = 1 - turn
            return quick.output.copy()
        return self._feed(x)

    def _feed(self, x: Array) -> Any:
        if type(x) is not np.ndarray or self._checked.get(shape := x.shape) is not x.dtype:
            self._check(named_input(self._contract, x))
            self._checked[shape := x.shape] = x.dtype
        try:
            answers = self._carrier.step((x,), shape)
        except EngineError:
            self._failed()
            raise
        self._begun = True
        self._quick = self._carrier.quick(shape)
        return answers[0] if len(answers) == 1 else self._named(answers)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Feeds the next chunk, inputs and outputs by name."""
        if self._single is not None and len(inputs) == 1 and self._single[0] in inputs:
            return {self._single[1]: self(inputs[self._single[0]])}
        self._check(inputs)
        try:
            arrays = [inputs[s.name] for s in self._contract.inputs]
            answers = self._carrier.step(arrays, tuple([array.shape for array in arrays]))
        except EngineError:
            self._failed()
            raise
        self._begun = True
        return self._named(answers)

    @property
    def state(self) -> State:
        """A copy of the current state.

        Raises:
            StateError: the sequence has not begun, so its batch size is not known yet.
        """
        if self._fixed is None:
            raise StateError(
                "The stream has no state yet: its batch size is known from the first chunk, or "
                "from restore(state)."
            )
        return State._adopt(self._carrier.read())

    def restore(self, state: State) -> None:
        """Goes on from a state, of this stream or any other; it may have another batch size.

        Raises:
            StateError: the state does not fit the contract.
        """
        check_state(self._contract, state, {})
        self._begin(state)
        self._begun = True

    def reset(self) -> None:
        """Forgets the state: the next chunk begins a new sequence, with any batch size."""
        self._fixed = None
        self._begun = False
        self._quick = None
        self._checked.clear()

    def _begin(self, state: State) -> None:
        self._carrier.write(state)
        self._quick = None
        self._checked.clear()
        shapes = {name: array.shape for name, array in state.items()}
        self._fixed = axis_sizes(self._contract.state_inputs, shapes)

    def _failed(self) -> None:
        """A first call that fails begins nothing."""
        if not self._begun:
            self.reset()

    def _check(self, inputs: Mapping[str, Array]) -> None:
        """Checks a chunk; the first one of a sequence also brings the initial state about."""
        sizes = check_inputs(self._contract, inputs)
        check_chunk(self._contract, sizes)
        if self._fixed is None:
            self._begin(initial_state(self._contract, self._initial, sizes))
            return
        for axis in sorted(self._fixed.keys() & sizes.keys()):
            if self._fixed[axis] != sizes[axis]:
                raise InputError(
                    f"This chunk has {axis} {sizes[axis]}, but the stream carries the state of "
                    f"{axis} {self._fixed[axis]}. Call reset() first to begin a new sequence."
                )

    def _named(self, answers: list[Array]) -> dict[str, Array]:
        return {s.name: a for s, a in zip(self._contract.outputs, answers, strict=True)}
