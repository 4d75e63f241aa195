"""What a network is run on: sizes that were not traced, first states, chunkings, long chains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np

from stateport.contract import ArraySpec, Contract, resolve
from stateport.parity.vectors import Case

from ..network.example import Example
from .torch_reference import Array, Network

BATCHES: Final = (1, 2, 5)
TIMES: Final = (1, 2, 7, 64, 513)
RAGGED: Final = (1, 7, 2, 64, 3, 1, 1, 31, 5)
CHAIN: Final = 2048


def all_cases(network: Network, contract: Contract, beyond: Sequence[Case] = ()) -> Iterator[Case]:
    """Sizes that were not traced, first states, chunkings, permuted rows, and a long chain.

    `beyond` are further ones, of sizes at which the network may do otherwise. None has a call that
    the contract's limits rule out.
    """
    limits = dict(contract.limits)
    for case in (*_usual_cases(network, contract), *beyond):
        sizes = {**case.sizes, "time": max(case.chunks)}
        if all(sizes.get(axis, 0) <= most for axis, most in limits.items()):
            yield case


def _usual_cases(network: Network, contract: Contract) -> Iterator[Case]:
    axes, multiple = network.example.axes, contract.streaming.chunk_multiple
    batches = BATCHES if "batch" in axes else (1,)
    times = usual_times(contract) if "time" in axes else [1]
    for i, batch in enumerate(batches):
        for j, time in enumerate(times):
            start = "random" if (i + j) % 2 else "zeros"
            yield case_of(network, contract, "whole", [time], batch, start)
    if "batch" in axes:
        yield _permuted(network, contract, [times[len(times) // 2]])
    if not contract.states:
        return
    batch = batches[len(batches) // 2]
    if not contract.streaming.ok:
        call = max(8, shortest_time_of(contract))
        yield case_of(network, contract, "chain of calls", [call] * (CHAIN // 8), batch)
        return
    if "time" in axes:
        ragged = [time * multiple for time in RAGGED]
        steps = [multiple] * 64
        yield case_of(network, contract, "step by step", steps, batch, through="stream")
        yield case_of(network, contract, "ragged chunks", ragged, batch, through="stream")
        yield case_of(network, contract, "ragged calls", ragged, batch)
    chain = [multiple if "time" in axes else 1] * CHAIN
    yield case_of(network, contract, "chain", chain, batch, through="stream")


def usual_times(contract: Contract) -> list[int]:
    """The lengths of whole sequences: multiples that chunks need, and none below the shortest."""
    multiple = contract.streaming.chunk_multiple
    missing = shortest_time_of(contract) - multiple
    return [time * multiple + missing for time in TIMES]


def shortest_time_of(contract: Contract) -> int:
    """The smallest number of steps in one call."""
    return max(dict(contract.minimums).get("time", 1), contract.streaming.chunk_multiple)


def case_at(network: Network, contract: Contract, sizes: Mapping[str, int]) -> Case:
    """A whole sequence of these sizes; as long as the usual one, and of one row, by default."""
    multiple, axes = contract.streaming.chunk_multiple, network.example.axes
    time = sizes.get("time", network.example.sizes["time"]) if "time" in axes else 1
    time = -(-time // multiple) * multiple
    others = {axis: size for axis, size in sizes.items() if axis not in ("batch", "time")}
    name = ", ".join(["whole", *(f"{axis} {size}" for axis, size in others.items())])
    return case_of(network, contract, name, [time], sizes.get("batch", 1), "zeros", sizes=others)


def short_case(network: Network, contract: Contract) -> Case:
    """A case to try something on."""
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
    """A case; the same batch and number of steps give the same sequence, however it is cut.

    `sizes` are those of axes that are neither batch nor time, where they are not the usual ones.
    """
    axes = network.example.axes
    usual = {**network.example.sizes, **sizes}
    sizes = {a: n for a, n in usual.items() if a in axes and a != "time"}
    if "batch" in axes:
        sizes["batch"] = batch
    seed = 10_000 * batch + sum(chunks)
    title = f"{name} {batch}x{sum(chunks)}"
    return Case(
        name=f"{title}, from {start}" if contract.states else title,
        through=through,
        sizes=sizes,
        chunks=tuple(chunks),
        inputs=_inputs(network, contract, sizes, chunks, seed),
        initial=_random_state(contract, sizes, seed) if start == "random" else {},
    )


def _inputs(
    network: Network, contract: Contract, sizes: Mapping[str, int], chunks: Sequence[int], seed: int
) -> dict[str, Array]:
    """Inputs as `Case` keeps them: whole along time, or one per call where there is no time."""
    if "time" in network.example.axes:
        made = made_inputs(network, {**sizes, "time": sum(chunks)}, seed)
        per_call = [made] * len(chunks)
    else:
        per_call = [made_inputs(network, sizes, seed + call) for call in range(len(chunks))]
    lengths = {spec.name for spec in contract.inputs if spec.lengths_of is not None}
    return {
        spec.name: _lengths(network.example, spec, sizes, chunks, seed)
        if spec.name in lengths
        else per_call[0][spec.name]
        if "time" in spec.shape
        else np.stack([call[spec.name] for call in per_call])
        for spec in contract.inputs
    }


def _lengths(
    example: Example, spec: ArraySpec, sizes: Mapping[str, int], chunks: Sequence[int], seed: int
) -> Array:
    """The lengths of rows in each call, within its chunk: (calls, batch)."""
    shape = resolve(spec.shape, sizes)
    calls = [example.draw_lengths(shape, chunk, seed + i) for i, chunk in enumerate(chunks)]
    return np.stack(calls).astype(spec.dtype)


def made_inputs(network: Network, sizes: Mapping[str, int], seed: int) -> dict[str, Array]:
    """What the example gives, by name. A constant says nothing, so random numbers replace it."""
    random = np.random.default_rng(seed)
    arrays = [
        tensor.numpy() for _, tensor in network.example.tensors(network.example.make(sizes, seed))
    ]
    return {
        name: random.standard_normal(array.shape).astype(array.dtype)
        if array.dtype.kind == "f" and array.size and (array == array.flat[0]).all()
        else array
        for name, array in zip(network.inputs, arrays, strict=True)
    }


def _random_state(contract: Contract, sizes: Mapping[str, int], seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        s.input: (0.5 * random.standard_normal(resolve(s.shape, sizes))).astype(s.dtype)
        for s in contract.states
    }


def _permuted(network: Network, contract: Contract, chunks: Sequence[int]) -> Case:
    """A case with the rows of its batch in reverse order."""
    case = case_of(network, contract, "whole", chunks, 5)

    def flip(array: Array, shape: Sequence[object], offset: int) -> Array:
        if "batch" not in shape:
            return array
        return np.flip(array, list(shape).index("batch") + offset)

    inputs = {
        spec.name: flip(case.inputs[spec.name], spec.shape, 0 if "time" in spec.shape else 1)
        for spec in contract.inputs
        if spec.lengths_of is None or not network.example.descending
    }
    initial = {s.input: flip(case.initial[s.input], s.shape, 0) for s in contract.states}
    return replace(
        case,
        name=f"reversed rows, {case.name}",
        inputs={**case.inputs, **inputs},
        initial=initial,
    )
