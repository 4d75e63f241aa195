# SPDX-License-Identifier: Apache-2.0
"""The buffers of one live sequence, in the memory in which its engine computes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..contract import Contract, axis_sizes, names_of
from ..engines import Arrays, Buffer, Engine
from ..engines.base import answers, put, zeros
from .scratch import Scratch

_Buffers = dict[str, Buffer]
_Key = TypeVar("_Key", bound=Hashable)
_Call = TypeVar("_Call")


class StreamBuffers:
    """One live sequence, with two sets of engine buffers for its state.

    A step reads one set and writes the other, and the two swap roles: a state is never copied. For
    chunk sizes that came before, all buffers exist and are bound already, so that a step copies the
    input in, runs, and copies the output out. The buffers of the last new sizes are cached, up to
    the engine's `max_bound_calls`.

    Only one thread may use it at a time. A call that an exception ends, at any point, leaves the
    state as it was: the swap is one assignment, and comes last.
    """

    def __init__(
        self,
        contract: Contract,
        engine: Engine,
        shapes: Mapping[str, tuple[int, ...]],
        scratch: Scratch | None = None,
    ) -> None:
        """Makes the states: zeros.

        Args:
            contract: the network's contract.
            engine: the engine with the network's graph.
            shapes: by state input, the state's shape.
            scratch: memory for inputs and outputs, which earlier buffers of the engine may share.
        """
        self._contract = contract
        self._engine = engine
        self.shapes = shapes

        # The next step starts from the set at `turn`.
        self._states: tuple[_Buffers, _Buffers] = (self._zeros(), self._zeros())
        self.turn = 0
        self._scratch = scratch or Scratch(engine)
        self._bound: dict[Hashable, _Bound | None] = {}

    def write(self, state: Arrays) -> None:
        """Replaces the state by a copy of this one, which is keyed by the state inputs' names.

        Its arrays must have the shapes that the buffers were made with.
        """
        turn = 1 - self.turn
        for name, buffer in self._states[turn].items():
            buffer[...] = state[name]
        self.turn = turn

    def read(self) -> dict[str, NDArray[Any]]:
        """A copy of the state in the host's memory, keyed by the state inputs' names."""
        return {name: buffer.copy() for name, buffer in self._current.items()}

    @property
    def _current(self) -> _Buffers:
        """The buffers that the next step starts from."""
        return self._states[self.turn]

    def step(self, inputs: Sequence[NDArray[Any]], shapes: Hashable) -> list[NDArray[Any]]:
        """Runs one chunk, and stores the next state.

        Args:
            inputs: the contract's inputs, in order.
            shapes: the key for the shapes of the inputs; inputs of other shapes need another key.

        Returns:
            The contract's outputs, in order: copies that the caller owns.
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
        """The bound step of these shapes; None where more than one array goes in or comes out."""
        bound = self._bound.get(shapes)
        return None if bound is None else bound.quick

    def _bind(self, inputs: Sequence[NDArray[Any]]) -> _Bound | None:
        """Buffers for chunks of this size, bound for both roles of the two sets of states.

        None where the size of an output is not known before the call.
        """
        contract = self._contract
        shapes = {s.name: x.shape for s, x in zip(contract.inputs, inputs, strict=True)}
        try:
            ins, outs = self._chunk_buffers(axis_sizes(contract.inputs, shapes))
        except KeyError:
            return None

        first, second = self._states
        calls = [
            self._bind_call(ins, outs, first, second),
            self._bind_call(ins, outs, second, first),
        ]
        quick = None
        if len(ins) == len(outs) == 1:
            (array,), (in_,), (out,) = inputs, ins.values(), outs.values()
            quick = BoundStep(array.shape, array.dtype, in_, out, calls)

        return _Bound([*ins.values()], [*outs.values()], calls, quick)

    def _chunk_buffers(self, sizes: Mapping[str, int]) -> tuple[_Buffers, _Buffers]:
        """Buffers for the inputs and the outputs of a chunk of these sizes."""
        contract = self._contract
        return (
            {s.name: self._scratch.buffer("in", s, sizes) for s in contract.inputs},
            {s.name: self._scratch.buffer("out", s, sizes) for s in contract.outputs},
        )

    def _bind_call(
        self, ins: _Buffers, outs: _Buffers, before: _Buffers, after: _Buffers
    ) -> Callable[[], None]:
        """A call of the engine on these very arrays; the states are by the state inputs' names."""
        states_after = {state.output: after[state.input] for state in self._contract.states}
        return self._engine.bind({**ins, **before}, {**outs, **states_after})

    def _step_unbound(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """A step for which the engine allocates the outputs."""
        contract = self._contract
        named = dict(zip(names_of(contract.inputs), inputs, strict=True))
        names = names_of((*contract.outputs, *contract.state_outputs))
        results = answers(self._engine, {**named, **self.read()}, names)

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
    """A step with one array in and one out, for callers that do it themselves without overhead.

    It takes arrays of this `shape` and `dtype` only. The chunk is copied to `input`, the call of
    `calls` at the buffers' `turn` runs it, and `output` has the answer.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    input: Buffer
    output: Buffer
    calls: list[Callable[[], None]]


@dataclass(frozen=True)
class _Bound:
    """Buffers for chunks of one size, and a call for each `turn`."""

    inputs: list[Buffer]
    outputs: list[Buffer]
    calls: list[Callable[[], None]]
    quick: BoundStep | None  # the same step, if one array goes in and one comes out


def cache_bounded(calls: dict[_Key, _Call], key: _Key, call: _Call, most: int) -> _Call:
    """Caches a call and returns it; of more than `most` calls, the oldest ones are removed."""
    calls[key] = call
    while len(calls) > most:  # more than one, where an exception came between these lines
        del calls[next(iter(calls))]
    return call
