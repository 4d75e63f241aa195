"""The slab: the states of many sequences, a row each, in arrays that the engine is bound to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from .arrays import Array
from .contract import Contract, axis_sizes, resolve
from .engines import Engine
from .state import State

Rows = NDArray[np.int64]
Arrays = dict[str, Array]
_Shapes = tuple[tuple[int, ...], ...]
_T = TypeVar("_T")

#: Calls are kept prepared for so many sizes of chunks and of subsets.
_KEPT: Final = 32


class Slab:
    """State arrays with a row per sequence along the batch axis, and what steps them.

    There are two of each array: a step of all rows reads one and writes the other, and the two
    swap roles, so that nothing is copied. A step of some rows gathers them before, and scatters
    them after.
    """

    def __init__(self, contract: Contract, engine: Engine) -> None:
        self._contract = contract
        self._engine = engine
        self._names = [spec.name for spec in contract.inputs]  # callers may have another order
        self._axes = {spec.input: spec.shape.index("batch") for spec in contract.states}
        self._state: Arrays = {}
        self.resize(0)

    def resize(self, rows: int) -> None:
        """Changes the number of rows; those that there are in both keep their states."""
        before = self._state
        self._state, self._other = self._zeros(rows), self._zeros(rows)
        for name, array in before.items():
            kept = (slice(None),) * self._axes[name]
            kept += (slice(min(rows, array.shape[self._axes[name]])),)
            self._state[name][kept] = array[kept]
        self.rows = rows
        self._swapped = False
        self._all: dict[_Shapes, tuple[_Bound, _Bound]] = {}
        self._some: dict[_Shapes, _Bound] = {}

    def read(self, rows: Rows) -> State:
        """A copy of the states in these rows."""
        return State._adopt(
            {name: array.take(rows, self._axes[name]) for name, array in self._state.items()}
        )

    def write(self, rows: Rows, state: Mapping[str, Array]) -> None:
        """Replaces the states in these rows; one of a single row goes to all of them."""
        for name, array in state.items():
            self._state[name][self._at(name, rows)] = array

    def step(self, inputs: Mapping[str, Array]) -> Arrays:
        """Steps all rows; returns the outputs, which are the caller's."""
        key = tuple([inputs[name].shape for name in self._names])
        both = self._all.get(key) or _keep(self._all, key, self._bind_all(inputs))
        outputs = both[self._swapped](inputs)
        self._state, self._other = self._other, self._state
        self._swapped = not self._swapped
        return outputs

    def step_some(self, rows: Rows, inputs: Mapping[str, Array]) -> Arrays:
        """Steps these rows, each of which comes once."""
        key = tuple([inputs[name].shape for name in self._names])
        bound = self._some.get(key) or _keep(self._some, key, self._bind_some(inputs, len(rows)))
        for name, array in bound.before.items():
            # Rows are checked already; without "clip", take copies once more.
            self._state[name].take(rows, self._axes[name], array, "clip")
        outputs = bound(inputs)
        for name, array in bound.after.items():
            self._state[name][self._at(name, rows)] = array
        return outputs

    def _bind_some(self, inputs: Mapping[str, Array], rows: int) -> _Bound:
        return self._bind(inputs, self._zeros(rows), self._zeros(rows))

    def _bind_all(self, inputs: Mapping[str, Array]) -> tuple[_Bound, _Bound]:
        """Bound for both directions of the ping-pong, on the same buffers."""
        halves = (self._other, self._state) if self._swapped else (self._state, self._other)
        there = self._bind(inputs, *halves)
        return there, self._bind(inputs, *halves[::-1], buffers=there)

    def _bind(
        self,
        inputs: Mapping[str, Array],
        before: Arrays,
        after: Arrays,
        buffers: _Bound | None = None,
    ) -> _Bound:
        shapes = {name: array.shape for name, array in inputs.items()}
        sizes = axis_sizes(self._contract.inputs, shapes)
        taken = {name: np.empty(array.shape, array.dtype) for name, array in inputs.items()}
        given = {
            spec.name: np.empty(resolve(spec.shape, sizes), spec.dtype)
            for spec in self._contract.outputs
        }
        if buffers is not None:
            taken, given = buffers.inputs, buffers.outputs
        nexts = {spec.output: after[spec.input] for spec in self._contract.states}
        call = self._engine.bind({**taken, **before}, {**given, **nexts})
        return _Bound(call, taken, given, before, after)

    def _zeros(self, rows: int) -> Arrays:
        return {
            spec.input: np.zeros(resolve(spec.shape, {"batch": rows}), spec.dtype)
            for spec in self._contract.states
        }

    def _at(self, name: str, rows: Rows) -> tuple[slice | Rows, ...]:
        return (slice(None),) * self._axes[name] + (rows,)


@dataclass(frozen=True)
class _Bound:
    """A prepared call of the engine, and the arrays that it reads and writes."""

    call: Callable[[], None]
    inputs: Arrays
    outputs: Arrays
    before: Arrays
    after: Arrays

    def __call__(self, inputs: Mapping[str, Array]) -> Arrays:
        for name, array in inputs.items():
            self.inputs[name][...] = array
        self.call()
        return {name: array.copy() for name, array in self.outputs.items()}


def _keep(calls: dict[_Shapes, _T], key: _Shapes, call: _T) -> _T:
    """Keeps a call for inputs of these shapes; of too many, the oldest one goes."""
    calls[key] = call
    if len(calls) > _KEPT:
        del calls[next(iter(calls))]
    return call
