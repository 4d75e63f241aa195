"""What a model is measured under: so many streams, so many steps in a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..contract import ArraySpec, Contract
from ..errors import InputError
from ..model import Model

#: The size of axes other than batch and time, and the number of values that integers have.
OTHER: Final = 4


@dataclass(frozen=True)
class Workload:
    """`streams` live sequences, each of which gets `time` steps in a call."""

    streams: int
    time: int

    def __str__(self) -> str:
        streams = "1 stream" if self.streams == 1 else f"{self.streams} streams"
        return f"{streams}, {'1 step' if self.time == 1 else f'{self.time} steps'}"


def step_call(model: Model, load: Workload) -> Callable[[], Any]:
    """One call under a load, with random inputs, the state carried from call to call.

    One sequence is a `Stream`, several are a `Pool` of which all step. A network that cannot
    stream is called on a whole batch, from its initial state.

    Raises:
        InputError: the model has no such axis.
    """
    contract = model.contract
    axes = {axis for spec in contract.inputs for axis in spec.shape}
    if load.time > 1 and "time" not in axes:
        raise InputError(f"The model has no time axis, and {load.time} steps were asked for.")
    if load.streams > 1 and "batch" not in axes:
        raise InputError(f"The model has no batch axis, and {load.streams} streams were asked for.")
    inputs = random_inputs(contract, load)
    alone = next(iter(inputs.values())) if len(inputs) == 1 else None
    if contract.streaming.ok is False:
        return lambda: model.run(inputs)
    if load.streams > 1:
        pool = model.pool(load.streams)
        streams = pool.open(load.streams)
        fed: Any = inputs if alone is None else alone
        return lambda: pool.step(streams, fed)
    stream = model.stream()
    if alone is not None:
        return lambda: stream(alone)
    return lambda: stream.run(inputs)


def random_inputs(contract: Contract, load: Workload, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Inputs of the load's size, the same for the same seed: normal numbers, small integers."""
    random = np.random.default_rng(seed)
    sizes = {"batch": load.streams, "time": load.time}
    return {spec.name: _random(spec, sizes, random) for spec in contract.inputs}


def _random(spec: ArraySpec, sizes: dict[str, int], random: np.random.Generator) -> NDArray[Any]:
    shape = [sizes.get(axis, OTHER) if isinstance(axis, str) else axis for axis in spec.shape]
    if spec.lengths_of is not None:
        return np.full(shape, sizes.get(spec.lengths_of, OTHER), spec.dtype)
    kind = np.dtype(spec.dtype).kind
    if kind == "f":
        return random.standard_normal(shape).astype(spec.dtype)
    return random.integers(0, 2 if kind == "b" else OTHER, shape).astype(spec.dtype)
