# SPDX-License-Identifier: Apache-2.0
"""The buffers of a pool: the states of many sequences, one row each, in the engine's memory."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass

from ..contract import Axis, Contract, axis_sizes, check_streaming, names_in, resolve
from ..engines import Buffer, Engine
from ..errors import StreamingError
from ..roster import Rows
from ..state import State
from ..validation import Array
from .scratch import Scratch
from .stream_buffers import StreamBuffers, cache_bounded

Buffers = dict[str, Buffer]

#: Some rows, and by the names of the state inputs, their new states.
Change = tuple[Rows, Mapping[str, Array]]


class PoolBuffers(StreamBuffers):
    """Buffers for many sequences, one row each along the batch axis.

    A step of all rows is that of `StreamBuffers`: only inputs and outputs are copied. A step of
    some rows gathers their states before, and scatters them after.

    States are scattered array by array, and an exception may come between two arrays. So the
    changes are stored first, in one assignment. From then on they are valid, and every method
    begins by writing them again.
    """

    def __init__(
        self, contract: Contract, engine: Engine, rows: int, scratch: Scratch | None = None
    ) -> None:
        shapes = {spec.input: resolve(spec.shape, {"batch": rows}) for spec in contract.states}
        super().__init__(contract, engine, shapes, scratch)
        self._axes = {spec.input: spec.shape.index("batch") for spec in contract.states}
        self._state_specs = contract.state_inputs
        self._partial_steps: dict[Hashable, _PartialStep] = {}
        self._changes: Sequence[Change] = ()  # changes that may not be written completely
        self.rows = rows

    def resized(self, rows: int) -> PoolBuffers:
        """Buffers with another number of rows; rows that exist in both have their states."""
        self._write_changes()
        buffers = PoolBuffers(self._contract, self._engine, rows, self._scratch)
        common = slice(min(rows, self.rows))

        for name, array in self._current.items():
            region = (slice(None),) * self._axes[name] + (common,)
            buffers._current[name][region] = array[region]
        return buffers

    def read_rows(self, rows: Rows) -> State:
        """A copy of the states in these rows."""
        self._write_changes()
        return State._adopt(
            {name: array.take(rows, self._axes[name]) for name, array in self._current.items()}
        )

    def write_rows(self, changes: Sequence[Change]) -> None:
        """Replaces the states in these rows; a state of a single row goes to all of them.

        The arrays must not change before the next call.
        """
        self._write_changes()
        self._changes = changes
        self._write_changes()

    def step(self, inputs: Sequence[Array], shapes: Hashable) -> list[Array]:
        """Steps all rows."""
        if self._changes:
            self._write_changes()
        return StreamBuffers.step(self, inputs, shapes)  # faster than `super`

    def step_some(self, rows: Rows, inputs: Sequence[Array], shapes: Hashable) -> list[Array]:
        """Steps these rows, each of which comes once; otherwise like `step`."""
        outputs, after = self.run_some(rows, inputs, shapes)
        self.write_rows([(rows, after)])
        return outputs

    def run_some(
        self, rows: Rows, inputs: Sequence[Array], shapes: Hashable
    ) -> tuple[list[Array], Buffers]:
        """The outputs of a step of these rows, and their next states, which are not stored.

        The states are in buffers that the next call uses again.
        """
        self._write_changes()
        step = self._partial_steps.get(shapes) or cache_bounded(
            self._partial_steps,
            shapes,
            self._bind_partial_step(inputs, len(rows)),
            self._engine.max_bound_calls,
        )

        for name, array in step.before.items():
            # The rows are checked already; without "clip", `take` makes one more copy.
            self._current[name].take(rows, self._axes[name], array, "clip")

        for buffer, array in zip(step.inputs, inputs, strict=True):
            buffer[...] = array

        step.call()
        return [buffer.copy() for buffer in step.outputs], step.after

    def _write_changes(self) -> None:
        """Writes the stored changes."""
        for rows, state in self._changes:
            for name, array in state.items():
                self._current[name][self._region(name, rows)] = array
        self._changes = ()

    def _bind_partial_step(self, inputs: Sequence[Array], rows: int) -> _PartialStep:
        specs = self._contract.inputs
        shapes = {spec.name: x.shape for spec, x in zip(specs, inputs, strict=True)}
        ins, outs = self._chunk_buffers(axis_sizes(specs, shapes))
        before = self._state_buffers("before", rows)
        after = self._state_buffers("after", rows)
        call = self._bind_call(ins, outs, before, after)

        return _PartialStep([*ins.values()], [*outs.values()], before, after, call)

    def _state_buffers(self, role: str, rows: int) -> Buffers:
        """Buffers for the states of this number of rows, by the names of the state inputs."""
        sizes = {"batch": rows}
        return {spec.name: self._scratch.buffer(role, spec, sizes) for spec in self._state_specs}

    def _region(self, name: str, rows: Rows) -> tuple[slice | Rows, ...]:
        """The index of these rows in the array of a state."""
        return (slice(None),) * self._axes[name] + (rows,)


@dataclass(frozen=True)
class _PartialStep:
    """A prepared call for some rows, and the arrays that it reads and writes."""

    inputs: list[Buffer]
    outputs: list[Buffer]
    before: Buffers
    after: Buffers
    call: Callable[[], None]


def check_rows(contract: Contract, constant: Container[str] = ()) -> None:
    """Refuses networks whose streams cannot be rows of one batch.

    `constant` are outputs that are the same in every call, so that they need no batch axis.

    Raises:
        StreamingError: it cannot stream, or an array of it has no batch axis.
    """
    check_streaming(contract)

    states = contract.state_inputs
    axes_of_inputs = {axis for spec in contract.inputs for axis in spec.shape}
    for spec in (*contract.inputs, *contract.outputs, *states):
        is_constant = spec in contract.outputs and spec.name in constant
        if not is_constant and spec.shape.count("batch") != 1:
            cure = "Export the network with a dynamic batch"
            if spec in states and "batch" in axes_of_inputs:
                cure = "Let the network keep a value for each row, in a tensor with a batch axis"
            raise StreamingError(
                f"{spec.name!r} has no axis 'batch' of its own ({spec}), and the streams of a pool "
                f"are the rows of a batch, which begin at different times. {cure}, or use a Stream "
                "for each sequence."
            )

        known = {"batch"} if spec in states else axes_of_inputs
        for axis in spec.shape:
            if not _is_known(axis, known):
                raise StreamingError(
                    f"The size of the axis {axis!r} of {spec.name!r} is not known before a call. "
                    "Use a Stream for each sequence."
                )


def _is_known(axis: Axis, known: Container[Axis]) -> bool:
    """Whether an axis has a size, or is computed from known axes alone."""
    try:
        return all(name in known for name in names_in(axis))
    except KeyError:
        return False
