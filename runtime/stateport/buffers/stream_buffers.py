"""The buffers of one live sequence, in the memory in which its engine computes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..contract import Contract, axis_sizes
from ..engines import Arrays, Buffer, Engine
from ..engines.base import answers, put, zeros
from .scratch import Scratch

_Buffers = dict[str, Buffer]
_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")


class StreamBuffers:
    """One live sequence, whose state lies twice in buffers of the engine.

    A step reads one and writes the other, and the two swap roles: a state is never copied. For
    chunk sizes seen before, every buffer is there and bound already, so that a step copies the
    input in, runs, and copies the output out. Those of the last new sizes are kept, as many as
    the engine says.

    It has one owner. A call that an exception ends, at any point, leaves the state as it was: the
    swap is one assignment, and comes last.
    """

    def __init__(
        self,
        contract: Contract,
        engine: Engine,
        shapes: Mapping[str, tuple[int, ...]],
        scratch: Scratch | None = None,
    ) -> None:
        """The states are zeros of these shapes; a scratch may be shared with earlier buffers."""
        self._contract = contract
        self._engine = engine
        self.shapes = shapes
        # Of the two, the one at `turn` is what the next step starts from.
        self._states: tuple[_Buffers, _Buffers] = (self._zeros(), self._zeros())
        self.turn = 0
        self._scratch = scratch or Scratch(engine)
        self._bound: dict[Hashable, _Bound | None] = {}

    def write(self, state: Arrays) -> None:
        """Replaces the state by a copy of one of these shapes, keyed by the state inputs' names."""
        turn = 1 - self.turn
        for name, buffer in self._states[turn].items():
            buffer[...] = state[name]
        self.turn = turn

    def read(self) -> dict[str, NDArray[Any]]:
        """A copy of the state in the host's memory, keyed by the state inputs' names."""
        return {name: buffer.copy() for name, buffer in self._current.items()}

    @property
    def _current(self) -> _Buffers:
        """What the next step starts from."""
        return self._states[self.turn]

    def step(self, inputs: Sequence[NDArray[Any]], shapes: Hashable) -> list[NDArray[Any]]:
        """Runs one chunk, the contract's inputs in order, and keeps the next state.

        `shapes` is another for inputs of other shapes, so that what is prepared can be found.
        Returns the contract's outputs, in order; they are the caller's to keep.
        """
        # Every microsecond here counts: the engine needs less than ten for a small network.
        bound = self._bound.get(shapes)
        if bound is None:
            if shapes not in self._bound:
                cache_bounded(self._bound, shapes, self._bind(inputs), self._engine.max_bound_calls)
                return self.step(inputs, shapes)
            return self._step_unbound(inputs)
        quick = bound.quick
        if quick is not None:
            quick.input[...] = inputs[0]
        else:
            for buffer, array in zip(bound.inputs, inputs, strict=True):
                buffer[...] = array
        turn = self.turn
        bound.calls[turn]()
        if quick is not None:
            outputs = [quick.output.copy()]
        else:
            outputs = [buffer.copy() for buffer in bound.outputs]
        self.turn = 1 - turn
        return outputs

    def quick(self, shapes: Hashable) -> BoundStep | None:
        """What a step of these shapes needs, where one array goes in and one comes out."""
        bound = self._bound.get(shapes)
        return None if bound is None else bound.quick

    def _bind(self, inputs: Sequence[NDArray[Any]]) -> _Bound | None:
        """Buffers for chunks of this size, bound for both directions of the ping-pong.

        None where the size of an output is not known before the call.
        """
        contract = self._contract
        shapes = {s.name: x.shape for s, x in zip(contract.inputs, inputs, strict=True)}
        try:
            taken, given = self._chunk_buffers(axis_sizes(contract.inputs, shapes))
        except KeyError:
            return None
        calls = [
            self._call(taken, given, before, after)
            for before, after in (self._states, self._states[::-1])
        ]
        quick = None
        if len(taken) == len(given) == 1:
            (x,), (input_,), (output,) = inputs, taken.values(), given.values()
            quick = BoundStep(x.shape, x.dtype, input_, output, calls)
        return _Bound([*taken.values()], [*given.values()], calls, quick)

    def _chunk_buffers(self, sizes: Mapping[str, int]) -> tuple[_Buffers, _Buffers]:
        """Buffers for the inputs and the outputs of a chunk of these sizes."""
        contract = self._contract
        return (
            {s.name: self._scratch.buffer("in", s, sizes) for s in contract.inputs},
            {s.name: self._scratch.buffer("out", s, sizes) for s in contract.outputs},
        )

    def _call(
        self, taken: _Buffers, given: _Buffers, before: _Buffers, after: _Buffers
    ) -> Callable[[], None]:
        """A call of the engine on these very arrays."""
        nexts = {state.output: after[state.input] for state in self._contract.states}
        return self._engine.bind({**taken, **before}, {**given, **nexts})

    def _step_unbound(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """A step for which the engine allocates the outputs."""
        contract = self._contract
        named = {s.name: x for s, x in zip(contract.inputs, inputs, strict=True)}
        wanted = [s.name for s in (*contract.outputs, *contract.state_outputs)]
        results = answers(self._engine, {**named, **self.read()}, wanted)
        turn = 1 - self.turn
        for state in contract.states:
            put(self._engine, state.output, results[state.output], self._states[turn][state.input])
        self.turn = turn
        return [results[spec.name] for spec in contract.outputs]

    def _zeros(self) -> _Buffers:
        dtypes = {spec.input: spec.dtype for spec in self._contract.states}
        return {name: zeros(self._engine, s, dtypes[name]) for name, s in self.shapes.items()}


@dataclass(frozen=True, slots=True)
class BoundStep:
    """What a step of one array in and one out needs, for its owner to do it in as little as it can.

    It is good for arrays of this `shape` and `dtype` alone:
    `input` takes the chunk, `calls` at the buffers' `turn` runs it, and `output` has the answer.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    input: Buffer
    output: Buffer
    calls: list[Callable[[], None]]


@dataclass(frozen=True)
class _Bound:
    """Buffers for chunks of one size, and a call for each direction of the ping-pong."""

    inputs: list[Buffer]
    outputs: list[Buffer]
    calls: list[Callable[[], None]]
    quick: BoundStep | None  # the same, where one array goes in and one comes out


def cache_bounded(calls: dict[_K, _T], key: _K, call: _T, most: int) -> _T:
    """Keeps a call for inputs of these shapes; of more than so many, the oldest one goes."""
    calls[key] = call
    while len(calls) > most:  # more than one, where an exception came between these lines
        del calls[next(iter(calls))]
    return call
