# SPDX-License-Identifier: Apache-2.0
"""The cases that a network is run on: new sizes, first states, chunkings, long chains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np
import torch

from stateport.axes import SIZE_LIMIT
from stateport.contract import ArraySpec, Contract, resolve
from stateport.parity.vectors import Case
from stateport.validation import initial_state

from ..network.example import Example
from ..network.isolation import unchanged_globals
from .torch_reference import Array, Network

BATCHES: Final = (1, 2, 5)
TIMES: Final = (1, 2, 7, 64, 513)
RAGGED: Final = (1, 7, 2, 64, 3, 1, 1, 31, 5)
CHAIN: Final = 2048


def ragged_chunks(multiple: int, longest: int = SIZE_LIMIT) -> list[int]:
    """Chunks of very different lengths, all multiples of a number of steps, and none too long."""
    chunks = [length * multiple for length in RAGGED]
    return [*filter(longest.__ge__, chunks)]


def all_cases(network: Network, contract: Contract, beyond: Sequence[Case] = ()) -> Iterator[Case]:
    """Sizes that were not traced, first states, chunkings, permuted rows, and a long chain.

    Cases with a call that the contract's limits rule out are left out.

    Args:
        network: the network that is run.
        contract: its contract.
        beyond: further cases, of sizes at which the network may behave differently.
    """
    for case in (*_usual_cases(network, contract), *beyond):
        if is_within_limits(case, contract):
            yield case


def is_within_limits(case: Case, contract: Contract) -> bool:
    """Whether the contract allows all calls of a case."""
    largest = {**case.sizes, "time": max(case.chunks)}
    smallest = {**case.sizes, "time": min(case.chunks)}
    is_below_limits = all(largest.get(axis, 0) <= limit for axis, limit in contract.limits)
    is_above_minimums = all(
        smallest.get(axis, minimum) >= minimum for axis, minimum in contract.minimums
    )
    return is_below_limits and is_above_minimums


def _usual_cases(network: Network, contract: Contract) -> Iterator[Case]:
    axes = network.example.axes
    batches = BATCHES if "batch" in axes else (1,)
    times = usual_times(contract) if "time" in axes else [1]

    yield from _whole_sequences(network, contract, batches, times)
    if "batch" in axes:
        yield _permuted(network, contract, [times[len(times) // 2]])

    if contract.states:
        yield from _sequences_of_calls(network, contract, batches[len(batches) // 2])


def _whole_sequences(
    network: Network, contract: Contract, batches: Sequence[int], times: Sequence[int]
) -> Iterator[Case]:
    """Every batch with every number of steps; random and zero first states alternate."""
    for i, batch in enumerate(batches):
        for j, time in enumerate(times):
            start = "random" if (i + j) % 2 else "zeros"
            yield case_of(network, contract, "whole", [time], batch, start)

    for time in _between_multiples(network, contract):
        yield case_of(network, contract, "whole", [time], batches[-1])


def _between_multiples(network: Network, contract: Contract) -> Iterator[int]:
    """Lengths that no chunk has, where whole sequences may have any."""
    multiple = contract.step_multiple
    always = dict(contract.multiples).get("time", 1)
    if "time" not in network.example.axes or multiple == always:
        return
    shortest = contract.shortest_chunk
    for time in (shortest + always, shortest + 7 * multiple - always):
        if time % multiple:
            yield time


def _sequences_of_calls(network: Network, contract: Contract, batch: int) -> Iterator[Case]:
    """Cases of many calls, for a network with states."""
    if not contract.streaming.ok:
        multiple = contract.step_multiple
        call = -(-max(8, contract.shortest_chunk) // multiple) * multiple
        call = min(call, longest_time_of(contract))
        yield case_of(network, contract, "chain of calls", [call] * (CHAIN // 8), batch)
        return

    has_time = "time" in network.example.axes
    step = contract.streaming.chunk_multiple if has_time else 1
    if has_time:
        ragged = ragged_chunks(step, longest_time_of(contract))
        yield case_of(network, contract, "step by step", [step] * 64, batch, through="stream")
        yield case_of(network, contract, "ragged chunks", ragged, batch, through="stream")
        yield case_of(network, contract, "ragged calls", ragged, batch)
    yield case_of(network, contract, "chain", [step] * CHAIN, batch, through="stream")


def usual_times(contract: Contract) -> list[int]:
    """The lengths of whole sequences: multiples that chunks need, from the shortest to the longest.

    The longest takes the place of all that exceed it.
    """
    multiple = contract.step_multiple
    missing = contract.shortest_chunk - multiple
    longest = longest_time_of(contract)

    times = [min(time * multiple + missing, longest) for time in TIMES]
    return [*dict.fromkeys(times)]


def longest_time_of(contract: Contract) -> int:
    """The largest number of steps in one call, of the multiples that a call may have."""
    multiple = contract.step_multiple
    return dict(contract.limits).get("time", SIZE_LIMIT) // multiple * multiple


def case_at(network: Network, contract: Contract, sizes: Mapping[str, int]) -> Case:
    """A whole sequence of these sizes, from zeros.

    The number of steps is the example's where `sizes` has none, and is rounded up to a multiple
    that the contract allows. The batch is 1 where `sizes` has none.
    """
    multiple = contract.step_multiple
    axes = network.example.axes
    time = sizes.get("time", network.example.sizes["time"]) if "time" in axes else 1
    rounded_time = -(-time // multiple) * multiple

    rest = {}
    for axis, size in sizes.items():
        if axis not in ("batch", "time"):
            rest[axis] = size

    name = ", ".join(["whole", *(f"{axis} {size}" for axis, size in rest.items())])
    batch = sizes.get("batch", 1)
    return case_of(network, contract, name, [rounded_time], batch, "zeros", sizes=rest)


def short_case(network: Network, contract: Contract) -> Case:
    """A case to try something on: the example's number of steps, in a batch of 2."""
    return case_of(network, contract, "whole", [network.example.sizes["time"]], 2)


def case_of(
    network: Network,
    contract: Contract,
    name: str,
    chunks: Sequence[int],
    batch: int,
    start: str = "random",
    through: str = "model",
    sizes: Mapping[str, int] = MappingProxyType({}),
) -> Case:
    """A case with drawn inputs.

    The same batch and number of steps give the same sequence, for all chunkings.

    Args:
        network: the network that is run.
        contract: its contract.
        name: the start of the case's name.
        chunks: the number of steps of each call.
        batch: the number of rows.
        start: the first state, "random" or "zeros".
        through: as in `Case`.
        sizes: the sizes of axes other than batch and time that differ from the example's.
    """
    axes = network.example.axes
    usual = {**network.example.sizes, **sizes}

    sizes = {}
    for axis, size in usual.items():
        if axis in axes and axis != "time":
            sizes[axis] = size

    if "batch" in axes:
        sizes["batch"] = batch

    seed = 10_000 * batch + sum(chunks)
    title = f"{name} {batch}x{sum(chunks)}"
    full_title = f"{title}, from {start}" if contract.states else title
    return Case(
        name=full_title,
        through=through,
        sizes=sizes,
        chunks=tuple(chunks),
        inputs=_inputs(network, contract, sizes, chunks, seed),
        initial=_random_state(network, contract, sizes, seed) if start == "random" else {},
    )


def _inputs(
    network: Network, contract: Contract, sizes: Mapping[str, int], chunks: Sequence[int], seed: int
) -> dict[str, Array]:
    """Inputs as `Case` keeps them: whole along time, or one per call where there is no time."""
    if "time" in network.example.axes:
        whole = made_inputs(network, {**sizes, "time": sum(chunks)}, seed)
        per_call = [whole] * len(chunks)
    else:
        per_call = [made_inputs(network, sizes, seed + call) for call in range(len(chunks))]

    inputs = {}
    for spec in contract.inputs:
        if spec.lengths_of is not None:
            inputs[spec.name] = _row_lengths(network.example, spec, sizes, chunks, seed)
        elif "time" in spec.shape:
            inputs[spec.name] = per_call[0][spec.name]
        else:
            of_calls = [arrays[spec.name] for arrays in per_call]
            inputs[spec.name] = np.stack(of_calls)
    return inputs


def _row_lengths(
    example: Example, spec: ArraySpec, sizes: Mapping[str, int], chunks: Sequence[int], seed: int
) -> Array:
    """The lengths of rows in each call, within its chunk: (calls, batch)."""
    shape = resolve(spec.shape, sizes)
    calls = [example.draw_lengths(shape, chunk, seed + i) for i, chunk in enumerate(chunks)]
    return np.stack(calls).astype(spec.dtype)


def made_inputs(network: Network, sizes: Mapping[str, int], seed: int) -> dict[str, Array]:
    """The example's inputs at these sizes, by name.

    A floating-point input of one repeated value tests nothing, so random numbers replace it.
    """
    random = np.random.default_rng(seed)
    tensors = network.example.tensors(network.example.make(sizes, seed))
    arrays = [tensor.numpy() for _, tensor in tensors]

    inputs = {}
    for name, array in zip(network.inputs, arrays, strict=True):
        if _is_constant_float(array):
            inputs[name] = random.standard_normal(array.shape).astype(array.dtype)
        else:
            inputs[name] = array
    return inputs


def _is_constant_float(array: Array) -> bool:
    if array.dtype.kind != "f" or array.size == 0:
        return False
    return bool((array == array.flat[0]).all())


def _random_state(
    network: Network, contract: Contract, sizes: Mapping[str, int], seed: int
) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    states = _reached_state(network, contract, sizes, seed) if network.reached else {}
    for spec in contract.states:
        numbers = random.standard_normal(resolve(spec.shape, sizes))
        if spec.input not in states:
            # NumPy makes a number of a product without axes.
            states[spec.input] = np.asarray(0.5 * numbers, spec.dtype)
    return states


def _reached_state(
    network: Network, contract: Contract, sizes: Mapping[str, int], seed: int
) -> dict[str, Array]:
    """The states that cannot be any numbers, as they are after a few random steps."""
    inputs = made_inputs(network, {**network.example.sizes, **sizes}, seed + 1)
    first = initial_state(contract, network.initial, sizes)
    with unchanged_globals(seed), torch.no_grad():
        results = network({**inputs, **first})

    states = {}
    for spec in contract.states:
        if spec.input in network.reached:
            states[spec.input] = results[spec.output].astype(spec.dtype)
    return states


def _permuted(network: Network, contract: Contract, chunks: Sequence[int]) -> Case:
    """A case with the rows of its batch in reverse order."""
    case = case_of(network, contract, "whole", chunks, 5)
    inputs = dict(case.inputs)
    for spec in contract.inputs:
        # Lengths that have to descend stay in their order.
        if spec.lengths_of is None or not network.example.descending:
            calls_axes = 0 if "time" in spec.shape else 1
            inputs[spec.name] = _reverse_rows(inputs[spec.name], spec.shape, calls_axes)

    initial = {}
    for state in contract.states:
        initial[state.input] = _reverse_rows(case.initial[state.input], state.shape, 0)
    return replace(case, name=f"reversed rows, {case.name}", inputs=inputs, initial=initial)


def _reverse_rows(array: Array, shape: Sequence[object], calls_axes: int) -> Array:
    """An array of this shape, after `calls_axes` axes of calls, with its rows reversed."""
    if "batch" not in shape:
        return array
    return np.flip(array, list(shape).index("batch") + calls_axes)
