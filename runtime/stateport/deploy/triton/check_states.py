# SPDX-License-Identifier: Apache-2.0
"""What would go wrong with the states that Triton keeps for a model, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

import numpy as np

from ...contract import Contract, StateSpec, names_of
from ...suggestions import did_you_mean
from .datatypes import TYPES, dims_of
from .inside import is_inside, leads_out
from .read_configuration import Configuration, ImplicitState, InitialState

#: Triton ends a sequence after so many microseconds, unless the configuration says otherwise.
DEFAULT_IDLE = 1_000_000


def check_sequences(config: Configuration, contract: Contract, idle: float) -> Iterator[str]:
    """What is wrong with the sequences: that there are none, or that they end too early.

    Args:
        config: what somebody wrote.
        contract: what the model's file promises.
        idle: the longest time between two chunks of a sequence, in seconds.
    """
    if not config.has_sequences:
        if contract.states:
            yield (
                "there is no sequence_batching, so that every request begins from a first state. "
                "Add sequence_batching."
            )
        return

    wanted = round(idle * 1e6)
    seconds = (config.idle or DEFAULT_IDLE) / 1e6
    set_it = f"Write max_sequence_idle_microseconds: {wanted} or more."
    if (config.idle or DEFAULT_IDLE) >= wanted:
        return
    if config.idle == 0:
        yield (
            "max_sequence_idle_microseconds is not set: Triton ends a sequence after 1 s without a "
            f"request, and refuses its next chunk. {set_it}"
        )
    else:
        yield (
            f"a sequence ends after {seconds:g} s without a request, and {idle:g} s between two "
            f"chunks are expected; its next chunk would be refused. {set_it}"
        )


def check_states(config: Configuration, contract: Contract, folder: Path) -> Iterator[str]:
    """What is wrong with the implicit states: pairs, first values, dtypes and dims.

    Args:
        config: what somebody wrote.
        contract: what the model's file promises.
        folder: the model's folder, in which the files with first values are.
    """
    yield from _check_names(config, names_of(contract.state_inputs))

    entries = {entry.input: entry for entry in config.states}
    ordinary = {port.name for port in config.inputs}
    for spec in contract.states:
        if spec.input in entries:
            yield from _check_state(entries[spec.input], spec, config.batch > 0, folder)
        elif spec.input in ordinary:
            yield (
                f"the state {spec.input!r} is an ordinary input: every client would have to send "
                f"it, and take its next value from {spec.output!r}. Make it a state of "
                "sequence_batching."
            )
        else:
            yield (
                f"the state {spec.input!r} of the file is missing. Add a state to "
                f"sequence_batching, with output_name {spec.output!r}."
            )


def _check_names(config: Configuration, names: Sequence[str]) -> Iterator[str]:
    """What is wrong with the names of states; `names` are those that the file has."""
    for name, count in Counter(entry.input for entry in config.states).items():
        if count > 1:
            yield f"the state {name!r} is there {count} times. Leave one."
        if name not in names:
            known = f"Its states are {', '.join(names)}." if names else "It has no states."
            yield (
                f"{name!r} is a state here, but not in the file. {known}{did_you_mean(name, names)}"
            )


def _check_state(
    entry: ImplicitState, spec: StateSpec, batched: bool, folder: Path
) -> Iterator[str]:
    if entry.output != spec.output:
        yield (
            f"states are crossed: {spec.input!r} gets its next value from {entry.output!r}; by the "
            f'contract it comes from {spec.output!r}. Write output_name: "{spec.output}".'
        )
    if entry.dtype != TYPES[spec.dtype]:
        yield (
            f"the state {spec.input!r} has data_type {entry.dtype or 'none'}; in the file it is "
            f"{TYPES[spec.dtype]}."
        )

    dims = _first_dims(spec, batched)
    if -1 in dims:
        yield (
            f"the state {spec.input!r} grows along a dynamic axis, which Triton counts as 1 in a "
            "first state. Serve it with the Python backend."
        )
        return
    loose = [-1 if axis == 1 and name == "batch" else axis for axis, name in _named(spec, batched)]
    if [*entry.dims] not in (dims, loose):
        yield (
            f"the state {spec.input!r} has dims {[*entry.dims]}; in the file they are {dims}"
            f"{', without the batch axis' if batched else ''}."
        )
    yield from _check_initial(entry.initial, spec, dims, folder)


def _first_dims(spec: StateSpec, batched: bool) -> list[int]:
    """The dims of the first state of one sequence: -1 for axes that no configuration can say."""
    if batched:
        return dims_of(spec.shape, batched=True)
    return [1 if axis == "batch" else axis if isinstance(axis, int) else -1 for axis in spec.shape]


def _named(spec: StateSpec, batched: bool) -> Iterator[tuple[int, object]]:
    """The dims, each with its axis in the contract."""
    axes = [axis for axis in spec.shape if not (batched and axis == "batch")]
    yield from zip(_first_dims(spec, batched), axes, strict=True)


def _check_initial(
    initial: InitialState | None, spec: StateSpec, dims: list[int], folder: Path
) -> Iterator[str]:
    """What is wrong with the first value of a state."""
    name, kind = spec.input, TYPES[spec.dtype]
    if initial is None or not initial.has_data:
        what = "has no initial_state" if initial is None else "has an initial_state without values"
        data = "zero_data: true" if spec.initial == "zeros" else 'data_file: "FILE"'
        yield (
            f"the state {name!r} {what}: a sequence would begin with whatever the memory holds. "
            f'Add initial_state {{ name: "{name}" data_type: {kind} dims: {dims} {data} }}.'
        )
        return

    if initial.dtype != kind or [*initial.dims] != dims:
        yield (
            f"the initial_state of {name!r} is {initial.dtype} {[*initial.dims]}; {kind} {dims} "
            "was expected."
        )
    if initial.data_file:
        if is_inside(initial.data_file):
            yield from _check_data(folder / "initial_state" / initial.data_file, spec, dims)
        else:
            yield leads_out("data_file", initial.data_file)
    elif spec.initial == "file":
        yield (
            f"the state {name!r} begins with zeros; by the contract it begins with values of the "
            "file. Write them with `stateport deploy triton --backend onnxruntime`."
        )


def _check_data(path: Path, spec: StateSpec, dims: list[int]) -> Iterator[str]:
    """What is wrong with the file of a first value."""
    wanted = prod(dims) * np.dtype(spec.dtype).itemsize
    if not path.is_file():
        yield f"the first value of {spec.input!r} is missing: there is no file {path}."
    elif path.stat().st_size != wanted:
        yield (
            f"the first value of {spec.input!r} has {path.stat().st_size} bytes in {path.name}; "
            f"{wanted} were expected."
        )
