"""The slab: the states of many sequences, a row each, in arrays that the engine is bound to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import Array
from .carrier import Carrier, keep
from .contract import Contract, axis_sizes, resolve
from .engines import Buffer, Engine
from .state import State

Rows = NDArray[np.int64]
Buffers = dict[str, Buffer]


class Slab(Carrier):
    """A carrier whose batch is many sequences, a row each along the batch axis.

    A step of all rows is a carrier's own: nothing is copied but inputs and outputs. A step of some
    gathers their rows before, and scatters them after.
    """

    def __init__(self, contract: Contract, engine: Engine) -> None:
        super().__init__(contract, engine)
        self._axes = {spec.input: spec.shape.index("batch") for spec in contract.states}
        self._state_specs = contract.state_inputs
        self._some: dict[Hashable, _Some] = {}
        self.rows = 0
        self.resize(0)

    def resize(self, rows: int) -> None:
        """Changes the number of rows; those that there are in both keep their states."""
        before, after = self._current, self._zero_states(rows)
        for name, array in before.items():
            kept = (slice(None),) * self._axes[name]
            kept += (slice(min(rows, self.rows)),)
            after[name][kept] = array[kept]
        self.rows = rows
        self._states, self.turn = (after, self._zero_states(rows)), 0
        self._bound.clear()
        self._some.clear()

    def read_rows(self, rows: Rows) -> State:
        """A copy of the states in these rows."""
        return State._adopt(
            {name: array.take(rows, self._axes[name]) for name, array in self._current.items()}
        )

    def write_rows(self, rows: Rows, state: Mapping[str, Array]) -> None:
        """Replaces the states in these rows; one of a single row goes to all of them."""
        for name, array in state.items():
            self._current[name][self._at(name, rows)] = array

    def step_some(self, rows: Rows, inputs: Sequence[Array], shapes: Hashable) -> list[Array]:
        """Steps these rows, each of which comes once; otherwise as `step`."""
        some = self._some.get(shapes) or keep(
            self._some, shapes, self._bind_some(inputs, len(rows)), self._engine.keeps
        )
        for name, array in some.before.items():
            # Rows are checked already; without "clip", take copies once more.
            self._current[name].take(rows, self._axes[name], array, "clip")
        for buffer, array in zip(some.inputs, inputs, strict=True):
            buffer[...] = array
        some.call()
        for name, array in some.after.items():
            self._current[name][self._at(name, rows)] = array
        return [buffer.copy() for buffer in some.outputs]

    def _bind_some(self, inputs: Sequence[Array], rows: int) -> _Some:
        specs = self._contract.inputs
        shapes = {spec.name: x.shape for spec, x in zip(specs, inputs, strict=True)}
        taken, given = self._chunk_buffers(axis_sizes(specs, shapes))
        before, after = (
            {s.name: self._scratch.buffer(role, s, {"batch": rows}) for s in self._state_specs}
            for role in ("before", "after")
        )
        call = self._call(taken, given, before, after)
        return _Some([*taken.values()], [*given.values()], before, after, call)

    def _zero_states(self, rows: int) -> Buffers:
        return {
            spec.input: self._engine.zeros(resolve(spec.shape, {"batch": rows}), spec.dtype)
            for spec in self._contract.states
        }

    def _at(self, name: str, rows: Rows) -> tuple[slice | Rows, ...]:
        return (slice(None),) * self._axes[name] + (rows,)


@dataclass(frozen=True)
class _Some:
    """A prepared call for so many rows, and the arrays that it reads and writes."""

    inputs: list[Buffer]
    outputs: list[Buffer]
    before: Buffers
    after: Buffers
    call: Callable[[], None]
