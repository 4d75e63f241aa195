"""The buffers: the states of many sequences, a row each, in arrays that the engine is bound to."""

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

#: Some rows, and by the names of the state inputs the states that they get.
Change = tuple[Rows, Mapping[str, Array]]


class PoolBuffers(StreamBuffers):
    """Buffers whose batch is many sequences, one row each along the batch axis.

    A step of all rows is that of `StreamBuffers`: nothing is copied but inputs and outputs. A step
    of some gathers their rows before, and scatters them after.

    States are scattered array by array, and an exception may come between two of them. So what is
    to be written is noted first, in one assignment; from then on it counts, and whatever is done
    next with the buffers begins by writing it again.
    """

    def __init__(
        self, contract: Contract, engine: Engine, rows: int, scratch: Scratch | None = None
    ) -> None:
        shapes = {spec.input: resolve(spec.shape, {"batch": rows}) for spec in contract.states}
        super().__init__(contract, engine, shapes, scratch)
        self._axes = {spec.input: spec.shape.index("batch") for spec in contract.states}
        self._state_specs = contract.state_inputs
        self._some: dict[Hashable, _PartialStep] = {}
        self._changes: Sequence[Change] = ()  # that may not be written in whole
        self.rows = rows

    def resized(self, rows: int) -> PoolBuffers:
        """A buffers of another number of rows; those that there are in both have their states."""
        self._finish()
        buffers = PoolBuffers(self._contract, self._engine, rows, self._scratch)
        for name, array in self._current.items():
            kept = (slice(None),) * self._axes[name]
            kept += (slice(min(rows, self.rows)),)
            buffers._current[name][kept] = array[kept]
        return buffers

    def read_rows(self, rows: Rows) -> State:
        """A copy of the states in these rows."""
        self._finish()
        return State._adopt(
            {name: array.take(rows, self._axes[name]) for name, array in self._current.items()}
        )

    def write_rows(self, changes: Sequence[Change]) -> None:
        """Replaces the states in these rows; one of a single row goes to all of them.

        The arrays must not change before the next call.
        """
        self._finish()
        self._changes = changes
        self._finish()

    def step(self, inputs: Sequence[Array], shapes: Hashable) -> list[Array]:
        """Steps all rows."""
        if self._changes:
            self._finish()
        return StreamBuffers.step(self, inputs, shapes)  # `super` would take a while longer

    def step_some(self, rows: Rows, inputs: Sequence[Array], shapes: Hashable) -> list[Array]:
        """Steps these rows, each of which comes once; otherwise as `step`."""
        outputs, after = self.run_some(rows, inputs, shapes)
        self.write_rows([(rows, after)])
        return outputs

    def run_some(
        self, rows: Rows, inputs: Sequence[Array], shapes: Hashable
    ) -> tuple[list[Array], Buffers]:
        """What a step of these rows gives, and their next states, which are not kept.

        The states are in buffers that the next call uses again.
        """
        self._finish()
        some = self._some.get(shapes) or cache_bounded(
            self._some, shapes, self._bind_some(inputs, len(rows)), self._engine.max_bound_calls
        )
        for name, array in some.before.items():
            # Rows are checked already; without "clip", take copies once more.
            self._current[name].take(rows, self._axes[name], array, "clip")
        for buffer, array in zip(some.inputs, inputs, strict=True):
            buffer[...] = array
        some.call()
        return [buffer.copy() for buffer in some.outputs], some.after

    def _finish(self) -> None:
        """Writes the noted changes."""
        for rows, state in self._changes:
            for name, array in state.items():
                self._current[name][self._at(name, rows)] = array
        self._changes = ()

    def _bind_some(self, inputs: Sequence[Array], rows: int) -> _PartialStep:
        specs = self._contract.inputs
        shapes = {spec.name: x.shape for spec, x in zip(specs, inputs, strict=True)}
        taken, given = self._chunk_buffers(axis_sizes(specs, shapes))
        before, after = (
            {s.name: self._scratch.buffer(role, s, {"batch": rows}) for s in self._state_specs}
            for role in ("before", "after")
        )
        call = self._call(taken, given, before, after)
        return _PartialStep([*taken.values()], [*given.values()], before, after, call)

    def _at(self, name: str, rows: Rows) -> tuple[slice | Rows, ...]:
        return (slice(None),) * self._axes[name] + (rows,)


@dataclass(frozen=True)
class _PartialStep:
    """A prepared call for so many rows, and the arrays that it reads and writes."""

    inputs: list[Buffer]
    outputs: list[Buffer]
    before: Buffers
    after: Buffers
    call: Callable[[], None]


def check_rows(contract: Contract) -> None:
    """Refuses networks whose streams cannot be rows of one batch.

    Raises:
        StreamingError: it cannot stream, or an array of it has no batch axis.
    """
    check_streaming(contract)
    states = contract.state_inputs
    for spec in (*contract.inputs, *contract.outputs, *states):
        known = {"batch"} if spec in states else {a for s in contract.inputs for a in s.shape}
        if spec.shape.count("batch") != 1:
            raise StreamingError(
                f"{spec.name!r} has no axis 'batch' of its own ({spec}), and the streams of a pool "
                "are the rows of a batch. Export the network with a dynamic batch, or use a Stream "
                "for each sequence."
            )
        if strange := [axis for axis in spec.shape if not _is_known(axis, known)]:
            raise StreamingError(
                f"The size of the axis {strange[0]!r} of {spec.name!r} is not known before a call. "
                "Use a Stream for each sequence."
            )


def _is_known(axis: Axis, known: Container[Axis]) -> bool:
    """Whether an axis has a size, or is computed from axes that have."""
    try:
        return all(name in known for name in names_in(axis))
    except KeyError:
        return False
