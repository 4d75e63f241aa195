# SPDX-License-Identifier: Apache-2.0
"""Whole sequences that are run chunk by chunk, with the state carried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import ArraySpec, Contract, names_in
from .errors import InputError
from .model import Model
from .state import State

Array = NDArray[Any]


def run_in_chunks(
    model: Model, arrays: Mapping[str, Array], state: State | None, chunk: int
) -> tuple[dict[str, Array], State]:
    """Feeds the arrays to a stream, `chunk` steps at a time.

    Outputs with a time axis are joined along it. Of other outputs, the last one is returned.

    Raises:
        InputError: an array does not fit the contract, an output is not the concatenation of its
            chunks, or the network does not take chunks of this length.
        StreamingError: the network cannot be run chunk by chunk.
    """
    for spec in model.contract.outputs:
        _check_joinable(spec)

    stream = model.stream()
    if state is not None:
        stream.restore(state)
    pieces = [*map(stream.run, _split_chunks(model.contract, arrays, chunk))]

    outputs = {}
    for spec in model.contract.outputs:
        name = spec.name
        if spec.time_axis is None:
            outputs[name] = pieces[-1][name]
        else:
            outputs[name] = np.concatenate([piece[name] for piece in pieces], spec.time_axis)
    return outputs, stream.state


def _check_joinable(spec: ArraySpec) -> None:
    """Refuses an output that is not the concatenation of its chunks, such as one of "batch*time".

    Raises:
        InputError: with the output, and what to do instead.
    """
    if spec.time_axis is None:
        return

    axis = spec.shape[spec.time_axis]
    if names_in(axis) != {"time"}:
        raise InputError(
            f"The output {spec} cannot be put together from chunks: its axis {axis!r} does not "
            "depend on time alone. Run it without chunks, or carry the state yourself."
        )


def _split_chunks(
    contract: Contract, arrays: Mapping[str, Array], chunk: int
) -> Iterator[dict[str, Array]]:
    """The inputs of each call: arrays with a time axis in slices, the others whole."""
    time_axes = _time_axes(contract, arrays)
    lengths = [arrays[name].shape[axis] for name, axis in time_axes.items()]
    length = max(lengths, default=1)
    check_chunk(contract, chunk)
    _check_length(contract, length)

    # There is at least one call, in which the model refuses empty arrays.
    for start in range(0, max(length, 1), chunk):
        inputs = dict(arrays)
        for name, axis in time_axes.items():
            steps = (slice(None),) * axis + (slice(start, start + chunk),)
            inputs[name] = arrays[name][steps]
        yield inputs


def check_chunk(contract: Contract, chunk: int) -> None:
    """Refuses chunks of a number of steps that the network does not take.

    Raises:
        InputError: with the multiple, and what to do.
    """
    multiple = contract.streaming.chunk_multiple
    if chunk % multiple:
        raise InputError(
            f"The chunk is {chunk} steps; the network takes multiples of {multiple}. Pass a chunk "
            f"of {-(-chunk // multiple) * multiple}."
        )


def _check_length(contract: Contract, length: int) -> None:
    """Refuses sequences of which the last chunk is none that the network takes.

    Raises:
        InputError: with the multiple, and what to do.
    """
    multiple = contract.streaming.chunk_multiple
    if length % multiple:
        raise InputError(
            f"The input has {length} steps; in chunks, the network takes multiples of {multiple}. "
            f"Cut off the last {length % multiple} steps, or run it without chunks."
        )


def _time_axes(contract: Contract, arrays: Mapping[str, Array]) -> dict[str, int]:
    """The time axis of each array that has one, by the input's name.

    Arrays of too few dimensions are left out: the model refuses them.

    Raises:
        InputError: no input of the model has a time axis.
    """
    axes = {spec.name: spec.shape.index("time") for spec in contract.inputs if "time" in spec.shape}
    if not axes:
        raise InputError("The model has no time axis, so that a chunk has no effect. Leave it out.")

    return {
        name: axis for name, axis in axes.items() if name in arrays and arrays[name].ndim > axis
    }
