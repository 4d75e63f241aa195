# SPDX-License-Identifier: Apache-2.0
"""The stream: a sequence that is fed chunk by chunk and holds its state itself."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, NoReturn

import numpy as np

from .buffers.stream_buffers import BoundStep, StreamBuffers, cache_bounded
from .contract import Contract, axis_sizes, check_chunk, check_streaming, names_of
from .engines import Engine
from .errors import InputError, StateError, StateportError
from .owner import Call, SingleOwner, owned
from .state import State
from .validation import (
    Array,
    check_inputs,
    check_state,
    initial_state,
    judged_by_shape,
    named_input,
)

#: How many shapes of chunks are remembered as checked.
_MAX_CHECKED: Final = 1024


class Stream:
    """A sequence that is fed chunk by chunk.

    A stream has one owner: calling it while another call runs is an error. Different streams of one
    model may run at the same time and are independent of each other. The state stays in the engine
    (on the GPU with `ort-cuda`). A call that fails leaves it unchanged. A call that is cut off by
    an exception from outside (Ctrl-C, a signal handler) has either taken full effect or none, and
    the stream remains usable.

    A copy (`copy.copy`, `copy.deepcopy`) is another stream that continues from the same state. A
    stream cannot be pickled, but its state can.
    """

    # Each call prepares its changes, and then applies them with one assignment, because an
    # exception from outside may come between any two instructions.

    def __init__(self, contract: Contract, engine: Engine, initial: Mapping[str, Array]) -> None:
        check_streaming(contract)
        self._contract = contract
        self._engine = engine
        self._initial = initial
        is_single = len(contract.inputs) == len(contract.outputs) == 1
        # The names of the only input and the only output, if there is one of each.
        self._single = (contract.inputs[0].name, contract.outputs[0].name) if is_single else None
        self._buffers = _Sequence(contract, engine, {})
        self._bound_step: BoundStep | None = None  # for chunks of the last one's shape and dtype
        self._owner = SingleOwner("stream")

    def __call__(self, x: Array) -> Any:
        """Feeds the next chunk and returns its output, or several outputs as a dict by name.

        Args:
            x: the chunk, with the dtype and shape of the contract, e.g. float32 (batch, time, 5).

        Raises:
            InputError: `x` does not fit the contract or the batch size of this sequence.
            EngineError: the engine failed.
            StateportError: another call of this stream is running.
        """
        # A chunk of the same shape and dtype as the last one is fed to the engine here, without
        # calls of other methods: after a step of a large network the caches are cold, and each
        # call in Python takes tenths of a microsecond. The code is that of SingleOwner.begin and
        # StreamBuffers.step.
        this_call: Call = []
        owner = self._owner
        if owner.running is None:
            owner.running = this_call
        else:
            owner.take_over(this_call)
        try:
            bound = self._bound_step
            if (
                bound is not None
                and type(x) is np.ndarray
                and x.shape == bound.shape
                and x.dtype is bound.dtype
            ):
                bound.input[...] = x
                buffers = self._buffers
                turn = buffers.turn
                bound.calls[turn]()
                y = bound.output.copy()
                buffers.turn = 1 - turn
                return y
            return self._feed(x)
        finally:
            owner.running = None

    def _feed(self, x: Array) -> Any:
        """Feeds a chunk whose shape or dtype is not that of the last one."""
        sequence = self._buffers
        known = type(x) is np.ndarray and sequence.checked.get(x.shape) is x.dtype

        if sequence.live and known:
            outputs = sequence.step((x,), x.shape)
        else:
            outputs = self._step(named_input(self._contract, x))
            if judged_by_shape(self._contract):
                cache_bounded(self._buffers.checked, x.shape, x.dtype, _MAX_CHECKED)

        if x.shape in self._buffers.checked:
            self._bound_step = self._buffers.quick(x.shape)
        return outputs[0] if len(outputs) == 1 else self._named(outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Feeds the next chunk, with inputs and outputs by name; see `__call__`."""
        single = self._single
        if single is not None and type(inputs) is dict and len(inputs) == 1 and single[0] in inputs:
            return {single[1]: self(inputs[single[0]])}
        return self._run(inputs)

    @owned
    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self._named(self._step(inputs))

    @property
    def state(self) -> State:
        """A copy of the current state.

        Raises:
            StateError: the sequence has not begun, so that its batch size is not known yet.
        """
        return self._read()

    @owned
    def _read(self) -> State:
        if not self._buffers.live:
            raise self._no_state()
        return State._adopt(self._buffers.read())

    def _no_state(self) -> StateError:
        return StateError(
            "The stream has no state yet, because its batch size is not known. Feed the first "
            "chunk, or call restore(state)."
        )

    @owned
    def restore(self, state: State) -> None:
        """Continues from a state of this stream or of another one. Its batch size may differ.

        Raises:
            StateError: the state does not fit the contract.
        """
        check_state(self._contract, state, {})
        sequence = self._sequence_of(state)
        sequence.write(state)
        self._begin(sequence)

    @owned
    def reset(self) -> None:
        """Discards the state: the next chunk begins a new sequence, with any batch size."""
        self._bound_step = None
        self._buffers.live = False

    @property
    def rewindable(self) -> int:
        """The number of calls that `rewind` can undo now: 0 without a history."""
        return 0

    def rewind(self, calls: int = 1) -> None:
        """Undoes the last calls: the stream continues from the state before them.

        For what speculates: an answer that is interrupted, or a search that goes back. A stream
        keeps the states that this needs if it was made with `model.stream(history=N)`: those before
        its last N calls. `reset` and `restore` discard them.

        Args:
            calls: the number of calls to undo.

        Raises:
            InputError: `calls` is not a number of calls, 1 or more.
            StateError: the stream does not keep the state before that many calls.
        """
        raise StateError(
            f"rewind({calls}) is not possible, because the stream keeps no earlier states. Make it "
            "with model.stream(history=N), which keeps the states before the last N calls."
        )

    def __copy__(self) -> Stream:
        """Another stream that continues from the same state."""
        copy = Stream(self._contract, self._engine, self._initial)
        if self._buffers.live:
            copy.restore(self.state)
        return copy

    def __deepcopy__(self, memo: object) -> Stream:
        """Another stream that continues from the same state."""
        return self.__copy__()

    def __reduce__(self) -> NoReturn:
        """Refuses pickles.

        Raises:
            StateportError: always.
        """
        raise StateportError(
            "A stream cannot be pickled. Pickle its state, or save it to a file "
            "(stream.state.save(path)), and restore it in a stream of the other process."
        )

    def __repr__(self) -> str:
        inputs = ", ".join(map(str, self._contract.inputs))
        sizes = [f"{axis} {size}" for axis, size in sorted(self._carried_sizes().items())]
        begun = " ".join(["begun,", *sizes]) if self._has_begun() else "not begun"
        return f"<stateport.Stream {inputs}, {begun} on {self._engine.name}>"

    def _step(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Checks a chunk and feeds it."""
        sizes = check_inputs(self._contract, inputs)
        check_chunk(self._contract, sizes)
        arrays = [inputs[spec.name] for spec in self._contract.inputs]
        shapes = arrays[0].shape if len(arrays) == 1 else tuple([array.shape for array in arrays])
        if not self._buffers.live:
            return self._step_first(arrays, shapes, sizes)

        self._check_sizes(sizes)
        return self._buffers.step(arrays, shapes)

    def _check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Refuses a chunk of other axis sizes than those of the state."""
        for axis, size in sorted(self._carried_sizes().items()):
            if sizes.get(axis, size) != size:
                raise InputError(
                    f"This chunk has {axis} {sizes[axis]}, but the stream carries the state of "
                    f"{axis} {size}. Call reset() first to begin a new sequence."
                )

    def _has_begun(self) -> bool:
        """Whether there is a state."""
        return self._buffers.live

    def _carried_sizes(self) -> Mapping[str, int]:
        """The sizes of the dynamic axes of the state; none before the first chunk."""
        return self._buffers.sizes if self._buffers.live else {}

    def _step_first(
        self, arrays: Sequence[Array], shapes: Hashable, sizes: Mapping[str, int]
    ) -> list[Array]:
        """Feeds the first chunk of a sequence, which begins only if the engine succeeds."""
        state = initial_state(self._contract, self._initial, sizes)
        sequence = self._sequence_of(state)
        sequence.write(state)
        outputs = sequence.step(arrays, shapes)
        self._begin(sequence)
        return outputs

    def _sequence_of(self, state: State) -> _Sequence:
        """Buffers for a state of these shapes: the present ones, or new ones for other shapes."""
        shapes = {name: array.shape for name, array in state.items()}
        if shapes == self._buffers.shapes:
            return self._buffers
        return _Sequence(self._contract, self._engine, shapes)

    def _begin(self, sequence: _Sequence) -> None:
        """Makes a sequence the current one. Its state must have been written."""
        if sequence is not self._buffers:
            self._bound_step = None
        sequence.live = True
        self._buffers = sequence

    def _named(self, outputs: Sequence[Array]) -> dict[str, Array]:
        return dict(zip(names_of(self._contract.outputs), outputs, strict=True))


class _Sequence(StreamBuffers):
    """The buffers of a sequence, its axis sizes, and the chunks that were checked."""

    def __init__(
        self, contract: Contract, engine: Engine, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        super().__init__(contract, engine, shapes)
        self.sizes = axis_sizes(contract.state_inputs, shapes) if shapes else {}
        # False before the first chunk and after a reset; the buffers serve the next sequence.
        self.live = False
        # The dtypes of single inputs that were checked, by shape.
        self.checked: dict[tuple[int, ...], np.dtype[Any]] = {}
