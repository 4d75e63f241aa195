# SPDX-License-Identifier: Apache-2.0
"""Sequences of any lengths, run in batches: each gets its answer, or the message of its failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunks import joined, split
from ..contract import ArraySpec, Contract, check_streaming, has_time, names_of
from ..errors import InputError, StateportError
from ..in_chunks import check_chunk, run_in_chunks
from ..model import Model
from ..state import State

Array = NDArray[Any]
#: The inputs or outputs of one sequence by name, without the batch axis.
Row = Mapping[str, Array]


@dataclass(frozen=True)
class Answer:
    """What became of one sequence.

    Attributes:
        outputs: its outputs by name, without the batch axis; empty where it failed.
        error: why it failed; None where it did not.
        state: the state after its last step, by the names of the states' inputs, without the batch
            axis; empty where it failed, or where the sequence cannot go on from there.
    """

    outputs: Row = field(default_factory=dict)
    error: str | None = None
    state: Row = field(default_factory=dict)


def check_options(contract: Contract, chunk: int | None, batch: int) -> None:
    """Refuses options that the network cannot be run with.

    Raises:
        InputError: `chunk` or `batch` is no positive number, the network does not take chunks of so
            many steps, or it takes the lengths of padded rows, so that it cannot be run chunk by
            chunk.
        StreamingError: there is a chunk, and the network needs whole sequences.
    """
    for name, value in (("chunk", chunk), ("batch", batch)):
        if value is not None and (type(value) is not int or value < 1):
            raise InputError(f"{name} is {value!r}; a whole number of at least 1 was expected.")
    if chunk is None:
        return

    if not has_time(contract):
        raise InputError("The model has no time axis, so that a chunk has no effect. Leave it out.")
    check_streaming(contract)
    if length_inputs(contract):
        raise InputError(
            "The network takes the length of each row of a padded batch, so that it cannot be run "
            "chunk by chunk. Leave out the chunk."
        )
    check_chunk(contract, chunk)


def length_inputs(contract: Contract) -> list[ArraySpec]:
    """The inputs that hold the length of each row along time."""
    return [spec for spec in contract.inputs if spec.lengths_of == "time"]


def run_rows(
    model: Model, rows: Sequence[Row | Answer], *, chunk: int | None = None, batch: int = 32
) -> list[Answer]:
    """Runs sequences, each from the state that it has, or else from the model's first one.

    Sequences whose arrays have the same shapes run together. Where the model takes the lengths of
    padded rows and the sequences do not have them, each gets its own: nothing is padded, since a
    network may compute with the padding, too. A sequence that fails does not take others with it:
    its batch runs again, one sequence at a time.

    Args:
        model: the model.
        rows: the inputs of each sequence, arrays without the batch axis; and the state that it
            starts from, by the names of the states' inputs. An `Answer` in place of them is passed
            on: what failed before.
        chunk: cut longer sequences into chunks of so many steps, with the state carried.
        batch: the most sequences that run together. With 1, each answer is what the model gives for
            that sequence alone, bit for bit; in batches an engine may round otherwise.

    Returns:
        The answers, in the order of the rows.

    Raises:
        InputError, StreamingError: as `check_options`.
    """
    contract = model.contract
    check_options(contract, chunk, batch)
    runner = _Runner(model, chunk)
    answers = [row if isinstance(row, Answer) else Answer() for row in rows]
    given = {i: row for i, row in enumerate(rows) if not isinstance(row, Answer)}

    for group in _groups(given):
        for start in range(0, len(group), runner.most(batch)):
            positions = group[start : start + runner.most(batch)]
            results = runner.run([given[position] for position in positions])
            for position, answer in zip(positions, results, strict=True):
                answers[position] = answer
    return answers


class _Runner:
    """Runs batches of sequences."""

    def __init__(self, model: Model, chunk: int | None) -> None:
        self.model = model
        self.contract = model.contract
        self._chunk = chunk
        self._lengths = names_of(length_inputs(model.contract))
        self._states = names_of(model.contract.state_inputs)
        specs = (*self.contract.inputs, *self.contract.state_inputs)
        self._axes = {spec.name: _batch_axis(spec) for spec in specs}
        has_batch = None not in self._axes.values()
        # Rows that see each other, as in a mean over the batch, run alone.
        self._is_joinable = has_batch and not model._mixed_rows

    def most(self, batch: int) -> int:
        """How many sequences may run together."""
        return batch if self._is_joinable else 1

    def run(self, rows: Sequence[Row]) -> list[Answer]:
        """Runs a batch; if that fails, each sequence of it alone."""
        try:
            return self._answers(rows)
        except (StateportError, MemoryError) as error:
            if len(rows) == 1:
                return [Answer(error=str(error) or "There is not enough memory.")]
        return [answer for row in rows for answer in self.run([row])]

    def _answers(self, rows: Sequence[Row]) -> list[Answer]:
        length = _length(self.contract, rows[0])
        arrays = self._joined([self._with_length(row, length) for row in rows])
        outputs, state = self._run(arrays, length)
        results = _rows(self.contract.outputs, outputs, len(rows))
        states: list[Row] = [{} for _ in rows]
        if not state._leftover:
            states = _rows(self.contract.state_inputs, state, len(rows))
        return [Answer(result, state=last) for result, last in zip(results, states, strict=True)]

    def _run(self, arrays: dict[str, Array], length: int) -> tuple[Mapping[str, Array], State]:
        """Runs sequences of this length, in chunks if they are longer than one."""
        first = {name: arrays.pop(name) for name in self._states if name in arrays}
        state = State(first) if first else None
        if self._chunk is None or length <= self._chunk:
            return self.model.run(arrays, state)
        return run_in_chunks(self.model, arrays, state, self._chunk)

    def _joined(self, rows: Sequence[Row]) -> dict[str, Array]:
        """The arrays of a call. Those that fit no input are left to the model to refuse."""
        arrays = {}
        for name, first in rows[0].items():
            axis = self._axes.get(name)
            if axis is None:
                arrays[name] = first
            else:
                arrays[name] = joined([row[name] for row in rows], min(axis, first.ndim))
        return arrays

    def _with_length(self, row: Row, length: int) -> Row:
        """A sequence with its length, where the model takes lengths and the data has none."""
        if not row.keys().isdisjoint(self._lengths):
            return row
        specs = length_inputs(self.contract)
        return {**row, **{spec.name: np.array(length, spec.dtype) for spec in specs}}


def _groups(rows: Mapping[int, Row]) -> list[list[int]]:
    """The positions of sequences that may run together."""
    groups: dict[object, list[int]] = {}
    for position, row in rows.items():
        groups.setdefault(_kind(row), []).append(position)
    return [*groups.values()]


def _kind(row: Row) -> object:
    """What must be equal for arrays to be stacked."""
    return tuple((name, array.shape, array.dtype) for name, array in sorted(row.items()))


def _rows(specs: Sequence[ArraySpec], batches: Mapping[str, Array], count: int) -> list[Row]:
    """The arrays of each row of a batch, by name."""
    names = names_of(specs)
    parts = split([batches[name] for name in names], [*map(_batch_axis, specs)], count)
    if not names:
        return [{} for _ in range(count)]
    return [dict(zip(names, part, strict=True)) for part in parts]


def _batch_axis(spec: ArraySpec) -> int | None:
    return spec.shape.index("batch") if "batch" in spec.shape else None


def _time_place(spec: ArraySpec) -> int:
    """The time axis of an array without its batch axis."""
    axis = spec.shape.index("time")
    return axis - 1 if "batch" in spec.shape[:axis] else axis


def _length(contract: Contract, row: Row) -> int:
    """The number of steps of a sequence; 1 where no array has time."""
    for spec in contract.inputs:
        array = row.get(spec.name)
        if "time" in spec.shape and array is not None and array.ndim > _time_place(spec):
            return int(array.shape[_time_place(spec)])
    return 1
