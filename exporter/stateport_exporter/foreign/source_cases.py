# SPDX-License-Identifier: Apache-2.0
"""The cases that a source is asked for, with random inputs.

A source gives the answers for whole sequences: an ONNX file, or a TorchScript module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stateport import Contract
from stateport.axes import dynamic_axes
from stateport.contract import ArraySpec, resolve
from stateport.parity.vectors import Case

from ..vectors.cases import CHAIN, TIMES, ragged_chunks

Array = NDArray[Any]
#: Gives the outputs of a whole sequence, from the initial state, by name.
Source = Callable[[Mapping[str, Array]], dict[str, Array]]

#: If an output has no time, the source is asked once for each call, so that chains take long.
_SHORT_CHAIN: Final = 128


@dataclass(frozen=True)
class AcceptedSizes:
    """The sizes that a source takes.

    Attributes:
        free: a size for axes that are neither batch nor time.
        batches: the sizes of the batch that are used, from the smallest on; (1,) without a batch.
        lengths: as in `draw_array`.
    """

    free: int
    batches: tuple[int, ...]
    lengths: Mapping[str, int] = field(default_factory=dict)


def source_cases(contract: Contract, sizes: AcceptedSizes, *, chunked: bool) -> Iterator[Case]:
    """All cases that the vectors have: whole sequences, and chunks where the file streams."""
    yield from _whole_cases(contract, sizes)
    has_time = "time" in input_axes(contract)
    if chunked and has_time and contract.streaming.ok and contract.states:
        yield from _chunked_cases(contract, sizes)


def _whole_cases(contract: Contract, sizes: AcceptedSizes) -> Iterator[Case]:
    axes = input_axes(contract)
    multiple = contract.streaming.chunk_multiple
    times = TIMES if "time" in axes else (1,)
    has_free_axes = bool(axes - {"batch", "time"})

    for batch in sizes.batches:
        for time in times:
            yield make_case(contract, "whole", [time * multiple], batch, free_size=sizes.free)
        if has_free_axes:
            for factor in (2, 3):
                name = f"{factor} times as wide"
                yield make_case(contract, name, [64], batch, free_size=factor * sizes.free)


def _chunked_cases(contract: Contract, sizes: AcceptedSizes) -> Iterator[Case]:
    batch = middle_of(sizes.batches)
    multiple = contract.streaming.chunk_multiple
    ragged = ragged_chunks(multiple)
    has_timeless_output = any(spec.time_axis is None for spec in contract.outputs)
    chain_length = _SHORT_CHAIN if has_timeless_output else CHAIN

    def chunked(name: str, chunks: Sequence[int], through: str) -> Case:
        return make_case(contract, name, chunks, batch, through, free_size=sizes.free)

    yield chunked("step by step", [multiple] * 64, "stream")
    yield chunked("ragged chunks", ragged, "stream")
    yield chunked("ragged calls", ragged, "model")
    yield chunked("chain", [multiple] * chain_length, "stream")


def middle_of(batches: Sequence[int]) -> int:
    """The middle one of the sizes of the batch, which chunks are tried at."""
    return batches[len(batches) // 2]


def input_axes(contract: Contract) -> set[str]:
    """The names of all axes of the inputs and the states."""
    names: set[str] = set()
    for spec in (*contract.inputs, *contract.state_inputs):
        names.update(dynamic_axes(spec.shape))
    return names


def make_case(
    contract: Contract,
    name: str,
    chunks: Sequence[int],
    batch: int,
    through: str = "model",
    *,
    free_size: int,
    lengths: Mapping[str, int] = MappingProxyType({}),
) -> Case:
    """A case with random inputs, which depend only on the sizes.

    `lengths` are as in `draw_array`.
    """
    sizes = dict.fromkeys(input_axes(contract) - {"time"}, free_size)
    if "batch" in sizes:
        sizes["batch"] = batch

    time = sum(chunks)
    random = np.random.default_rng(10_000 * batch + time)
    all_sizes = {**sizes, "time": time}
    inputs = {}
    for spec in contract.inputs:
        inputs[spec.name] = draw_array(spec, all_sizes, random, lengths)
    return Case(f"{name} {batch}x{time}", through, sizes, tuple(chunks), inputs, {})


def draw_array(
    spec: ArraySpec,
    sizes: Mapping[str, int],
    random: np.random.Generator,
    lengths: Mapping[str, int] = MappingProxyType({}),
) -> Array:
    """Normal numbers; for integers, 0 and 1, which every vocabulary has, or lengths that fit.

    Args:
        spec: the input.
        sizes: the size of each of its axes.
        random: where the numbers come from.
        lengths: by input that holds lengths of rows although the file has no time axis, the number
            of its steps. ONNX does not say what an operator gives for a row of length 0.
    """
    shape = resolve(spec.shape, sizes)
    if np.dtype(spec.dtype).kind == "f":
        return random.standard_normal(shape).astype(spec.dtype)

    most = lengths.get(spec.name)
    if spec.lengths_of is not None:
        most = sizes[spec.lengths_of]
    numbers = random.integers(0, 2, shape) if most is None else random.integers(1, most + 1, shape)

    return np.asarray(numbers).astype(spec.dtype)
