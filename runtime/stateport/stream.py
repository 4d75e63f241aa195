"""The stream: one live sequence, a model and its current state."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, NoReturn

import numpy as np

from .buffers.stream_buffers import BoundStep, StreamBuffers, cache_bounded
from .contract import Contract, axis_sizes, check_chunk, check_streaming
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

#: So many shapes of chunks are remembered as right.
_CHECKED: Final = 1024


class Stream:
    """One live sequence, fed chunk by chunk.

    It has one owner: calling it while another call runs is an error, while different streams of one
    model may run at the same time and never see each other. The state stays in the engine (on the
    GPU with `ort-cuda`). A call that fails leaves it as it was. A call that an exception from
    outside cuts off (Ctrl-C, a signal's handler) has either been done in whole or not at all, and
    the stream can be used as before.

    A copy (`copy.copy`, `copy.deepcopy`) is another stream, which goes on from the same state. A
    stream cannot be pickled; its state can.
    """

    # What a call changes is built first, and put in place by one assignment: an exception may come
    # between any two instructions.

    def __init__(self, contract: Contract, engine: Engine, initial: Mapping[str, Array]) -> None:
        check_streaming(contract)
        self._contract = contract
        self._engine = engine
        self._initial = initial
        one = len(contract.inputs) == len(contract.outputs) == 1
        self._single = (contract.inputs[0].name, contract.outputs[0].name) if one else None
        self._buffers = _Sequence(contract, engine, {})
        self._quick: BoundStep | None = None  # for chunks like the last one
        self._owner = SingleOwner("stream")

    def __call__(self, x: Array) -> Any:
        """Feeds the next chunk and returns its output; several outputs come as a dict by name.

        Args:
            x: the chunk, with dtype and shape as the contract says, e.g. float32 (batch, time, 5).

        Raises:
            InputError: `x` does not fit the contract or the batch size of this sequence.
            EngineError: the engine failed.
            StateportError: another call of this stream is running.
        """
        # Chunks like the one before go straight to the engine, and in this very frame: a large
        # network sweeps the caches clean in every step, so that each of Python's costs tenths of a
        # microsecond. It is what Owner.begin and Carrier.step do.
        this_call: Call = []
        owner = self._owner
        if owner.running is None:
            owner.running = this_call
        else:
            owner.take_over(this_call)
        try:
            quick = self._quick
            if (
                quick is not None
                and type(x) is np.ndarray
                and x.shape == quick.shape
                and x.dtype is quick.dtype
            ):
                quick.input[...] = x
                buffers = self._buffers
                turn = buffers.turn
                quick.calls[turn]()
                y = quick.output.copy()
                buffers.turn = 1 - turn
                return y
            return self._feed(x)
        finally:
            owner.running = None

    def _feed(self, x: Array) -> Any:
        """Feeds a chunk that is unlike the last one."""
        sequence = self._buffers
        known = type(x) is np.ndarray and sequence.checked.get(x.shape) is x.dtype
        if sequence.live and known:
            outputs = sequence.step((x,), x.shape)
        else:
            outputs = self._step(named_input(self._contract, x))
            if judged_by_shape(self._contract):
                cache_bounded(self._buffers.checked, x.shape, x.dtype, _CHECKED)
        if x.shape in self._buffers.checked:
            self._quick = self._buffers.quick(x.shape)
        return outputs[0] if len(outputs) == 1 else self._named(outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Feeds the next chunk, inputs and outputs by name."""
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
            StateError: the sequence has not begun, so its batch size is not known yet.
        """
        return self._read()

    @owned
    def _read(self) -> State:
        if not self._buffers.live:
            raise StateError(
                "The stream has no state yet: its batch size is known from the first chunk, or "
                "from restore(state)."
            )
        return State._adopt(self._buffers.read())

    @owned
    def restore(self, state: State) -> None:
        """Goes on from a state, of this stream or any other; it may have another batch size.

        Raises:
            StateError: the state does not fit the contract.
        """
        check_state(self._contract, state, {})
        sequence = self._sequence_of(state)
        sequence.write(state)
        self._begin(sequence)

    @owned
    def reset(self) -> None:
        """Forgets the state: the next chunk begins a new sequence, with any batch size."""
        self._quick = None
        self._buffers.live = False

    def __copy__(self) -> Stream:
        """Another stream, which goes on from the same state."""
        other = Stream(self._contract, self._engine, self._initial)
        if self._buffers.live:
            other.restore(self.state)
        return other

    def __deepcopy__(self, memo: object) -> Stream:
        """Another stream, which goes on from the same state."""
        return self.__copy__()

    def __reduce__(self) -> NoReturn:
        """Refuses pickles.

        Raises:
            StateportError: always.
        """
        raise StateportError(
            "A stream cannot be pickled. Pickle its state, or save it to a file "
            "(stream.state.save(path)), and restore it in a stream of the model there."
        )

    def _step(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Checks a chunk and feeds it."""
        sizes = check_inputs(self._contract, inputs)
        check_chunk(self._contract, sizes)
        arrays = [inputs[spec.name] for spec in self._contract.inputs]
        shapes = arrays[0].shape if len(arrays) == 1 else tuple([array.shape for array in arrays])
        if not self._buffers.live:
            return self._step_first(arrays, shapes, sizes)
        for axis, size in sorted(self._buffers.sizes.items()):
            if sizes.get(axis, size) != size:
                raise InputError(
                    f"This chunk has {axis} {sizes[axis]}, but the stream carries the state of "
                    f"{axis} {size}. Call reset() first to begin a new sequence."
                )
        return self._buffers.step(arrays, shapes)

    def _step_first(
        self, arrays: Sequence[Array], shapes: Hashable, sizes: Mapping[str, int]
    ) -> list[Array]:
        """Feeds the first chunk of a sequence, which begins when all has gone well."""
        state = initial_state(self._contract, self._initial, sizes)
        sequence = self._sequence_of(state)
        sequence.write(state)
        outputs = sequence.step(arrays, shapes)
        self._begin(sequence)
        return outputs

    def _sequence_of(self, state: State) -> _Sequence:
        """A sequence for states of these shapes: where they are the same, the one that is there."""
        shapes = {name: array.shape for name, array in state.items()}
        if shapes == self._buffers.shapes:
            return self._buffers
        return _Sequence(self._contract, self._engine, shapes)

    def _begin(self, sequence: _Sequence) -> None:
        """Goes on with a sequence, whose state is there."""
        if sequence is not self._buffers:
            self._quick = None
        sequence.live = True
        self._buffers = sequence

    def _named(self, outputs: Sequence[Array]) -> dict[str, Array]:
        return {s.name: y for s, y in zip(self._contract.outputs, outputs, strict=True)}


class _Sequence(StreamBuffers):
    """The buffers of a sequence, and what is known of it."""

    def __init__(
        self, contract: Contract, engine: Engine, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        super().__init__(contract, engine, shapes)
        self.sizes = axis_sizes(contract.state_inputs, shapes) if shapes else {}
        self.live = False  # whether there is a sequence, or only its buffers are kept for another
        self.checked: dict[tuple[int, ...], np.dtype[Any]] = {}  # single inputs: shape and dtype
