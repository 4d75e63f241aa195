# SPDX-License-Identifier: Apache-2.0
"""Recordings held against a contract: shapes, dtypes, numbers, and the steps that are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...axes import names_in, resolve
from ...contract import ArraySpec, Contract, describe, has_time, names_of
from ...errors import InputError
from ...picking import without
from ...state import State
from ...validation import check_inputs, check_state
from .reading import Recording

Array = NDArray[Any]


@dataclass(frozen=True)
class FittedRecording:
    """A recording whose arrays fit a contract.

    Attributes:
        name: what reports call it.
        steps: the number of time steps, or of calls for a network without a time axis.
        recorded_steps: how many there were before it was cut.
        sizes: the sizes of the axes other than time.
        inputs: by name; without a time axis in the network, (calls, ...) in front.
        initial: the first state by name; empty for the contract's own.
        answers: recorded answers by the names of outputs and state outputs, of all steps.
    """

    name: str
    steps: int
    recorded_steps: int
    sizes: Mapping[str, int]
    inputs: Mapping[str, Array]
    initial: Mapping[str, Array]
    answers: Mapping[str, Array]


def fit(recording: Recording, contract: Contract) -> FittedRecording:
    """The recording as the network takes it, cut to a length that the contract allows.

    Raises:
        InputError: an array has another dtype, rank or size than the contract says, holds NaN or
            infinity, or is too short.
    """
    arrays = recording.arrays
    inputs = {spec.name: arrays[spec.name] for spec in contract.inputs}
    steps = 1
    first_call = inputs
    if not has_time(contract):
        steps, inputs = _stacked(recording, contract)
        first_call = {name: array[0] for name, array in inputs.items()}

    sizes = _checked_sizes(recording, contract, first_call)
    steps = sizes.pop("time", steps)
    _check_numbers(recording, contract)

    fitted = FittedRecording(
        recording.name,
        steps,
        steps,
        sizes,
        inputs,
        _initial(recording, contract, {**sizes, "time": steps}),
        _answers(recording, contract, sizes, steps),
    )
    return _cut_to_contract(fitted, contract)


def cut(recording: FittedRecording, contract: Contract, steps: int) -> FittedRecording:
    """The first steps of a recording; answers that belong to its end are left out.

    Args:
        recording: a recording that is at least this long.
        contract: the contract that it fits.
        steps: how many steps to keep.
    """
    if steps == recording.steps:
        return recording

    timed = has_time(contract)
    inputs = {}
    for spec in contract.inputs:
        array = recording.inputs[spec.name]

        if timed:
            inputs[spec.name] = _cut_input(spec, array, steps)
        else:
            inputs[spec.name] = array[:steps]

    return replace(
        recording, steps=steps, inputs=inputs, answers=_cut_answers(recording, contract, steps)
    )


def _cut_input(spec: ArraySpec, array: Array, steps: int) -> Array:
    """The part of an input that belongs to the first steps; rows end there at the latest."""
    if spec.lengths_of == "time" and "time" not in spec.shape:
        shorter: Array = np.minimum(array, steps).astype(array.dtype)
        return shorter
    if "time" in spec.shape:
        return _first(array, spec.shape.index("time"), steps)
    return array


def _cut_to_contract(recording: FittedRecording, contract: Contract) -> FittedRecording:
    """Cuts a recording to the largest length of a call, and to a multiple of steps."""
    if not has_time(contract):
        return recording

    longest = dict(contract.limits).get("time", recording.steps)
    multiple = contract.step_multiple
    shortest = contract.shortest_chunk
    steps = min(recording.steps, longest) // multiple * multiple
    if steps < shortest:
        raise InputError(
            f"{recording.name} has {recording.steps} steps; the network takes multiples of "
            f"{multiple} from {shortest} on. Record a longer sequence."
        )
    return cut(recording, contract, steps)


def _stacked(recording: Recording, contract: Contract) -> tuple[int, dict[str, Array]]:
    """The inputs of a network without a time axis, one call after the other: (calls, ...).

    An array without an axis of calls is the same in every call.
    """
    arrays = recording.arrays
    counts: dict[str, int] = {}
    for spec in contract.inputs:
        if arrays[spec.name].ndim == len(spec.shape) + 1:
            counts[spec.name] = len(arrays[spec.name])

    if len(set(counts.values())) > 1 or 0 in counts.values():
        numbers = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise InputError(
            f"In {recording.name}, the arrays differ in the number of calls, or have none: "
            f"{numbers}. The first axis of each counts the calls; record all of them together."
        )

    calls = max(counts.values(), default=1)
    stacked = {}
    for spec in contract.inputs:
        array = arrays[spec.name]
        if spec.name not in counts:
            array = np.broadcast_to(array, (calls, *array.shape))
        stacked[spec.name] = array
    return calls, stacked


def _checked_sizes(
    recording: Recording, contract: Contract, inputs: Mapping[str, Array]
) -> dict[str, int]:
    """The size of every axis, after checking dtypes, ranks and sizes."""
    unlimited = replace(contract, limits=())
    try:
        return check_inputs(unlimited, inputs)
    except InputError as error:
        raise InputError(f"In {recording.name}: {error}{_advice_on_rank(contract, inputs)}") from (
            error
        )


def _advice_on_rank(contract: Contract, inputs: Mapping[str, Array]) -> str:
    """What to do about an array that lacks its batch axis, if one does."""
    for spec in contract.inputs:
        lacks_axis = inputs[spec.name].ndim == len(spec.shape) - 1
        if lacks_axis and "batch" in spec.shape:
            axis = spec.shape.index("batch")
            return (
                " A recording of one sequence has a batch of 1: "
                f"numpy.expand_dims({spec.name}, {axis})."
            )
    return ""


def _check_numbers(recording: Recording, contract: Contract) -> None:
    """Refuses inputs and first states that hold NaN or infinity: engines differ on them."""
    for spec in (*contract.inputs, *contract.state_inputs):
        array = recording.arrays.get(spec.name)
        if array is None or array.dtype.kind != "f":
            continue

        finite = np.isfinite(array)
        if not finite.all():
            where = np.unravel_index(int(np.argmin(finite)), array.shape)
            position = ", ".join(str(int(index)) for index in where)
            raise InputError(
                f"In {recording.name}, {spec.name!r} is {array[where]} at [{position}]; numbers "
                "were expected, because engines differ on NaN and infinity. Record it again, or "
                "cut that part off."
            )


def _initial(
    recording: Recording, contract: Contract, sizes: Mapping[str, int]
) -> dict[str, Array]:
    """The recorded first state; empty where none was recorded."""
    names = names_of(contract.state_inputs)

    given = {}
    for name in names:
        if name in recording.arrays:
            given[name] = recording.arrays[name]

    if not given:
        return {}

    missing = without(names, given)

    if missing:
        raise InputError(
            f"{recording.name} holds the first state {', '.join(given)} without "
            f"{', '.join(missing)}; all of them were expected, or none. Save all, or leave them "
            "out to start from the model's own."
        )

    try:
        check_state(contract, State(given), sizes)
    except InputError as error:
        raise InputError(f"In {recording.name}: {error}") from error
    return given


def _answers(
    recording: Recording, contract: Contract, sizes: Mapping[str, int], steps: int
) -> dict[str, Array]:
    """The recorded answers, which fit the contract at the sizes of the inputs."""
    answers = {}
    for spec in (*contract.outputs, *contract.state_outputs):
        if spec.name in recording.arrays:
            calls = () if has_time(contract) or spec in contract.state_outputs else (steps,)
            array = recording.arrays[spec.name]
            _check_answer(recording, spec, array, calls, {**sizes, "time": steps})
            answers[spec.name] = array
    return answers


def _check_answer(
    recording: Recording,
    spec: ArraySpec,
    array: Array,
    calls: tuple[int, ...],
    sizes: Mapping[str, int],
) -> None:
    """Refuses an answer of another kind or shape than the contract promises for these inputs."""
    kinds = "f" if spec.dtype.startswith("float") else np.dtype(spec.dtype).kind
    try:
        shape: tuple[int, ...] | None = (*calls, *resolve(spec.shape, sizes))
    except KeyError:  # the size of an axis is known after a call only
        shape = None

    if array.dtype.kind not in kinds or shape not in (None, array.shape):
        expected = describe(spec.dtype, spec.shape if shape is None else shape)
        raise InputError(
            f"In {recording.name}, the recorded answer {spec.name!r} is "
            f"{describe(array.dtype, array.shape)}; for these inputs {expected} was expected. "
            "Record the output of a whole sequence, with all axes of the contract."
        )


def _cut_answers(recording: FittedRecording, contract: Contract, steps: int) -> dict[str, Array]:
    """The answers to the first steps: those that have an axis of time alone."""
    answers = {}
    for spec in contract.outputs:
        array = recording.answers.get(spec.name)
        if array is None:
            continue

        if not has_time(contract):
            answers[spec.name] = array[:steps]
        elif is_cut_along_time(spec):
            assert spec.time_axis is not None
            sizes = {**recording.sizes, "time": steps}
            rows = resolve([spec.shape[spec.time_axis]], sizes)[0]
            answers[spec.name] = _first(array, spec.time_axis, rows)
    return answers


def is_cut_along_time(spec: ArraySpec) -> bool:
    """Whether an output has an axis that depends on time and on nothing else."""
    if spec.time_axis is None:
        return False
    try:
        return names_in(spec.shape[spec.time_axis]) == {"time"}
    except KeyError:
        return False


def _first(array: Array, axis: int, count: int) -> Array:
    """The first elements along an axis."""
    part: Array = array[(slice(None),) * axis + (slice(count),)]
    return part
