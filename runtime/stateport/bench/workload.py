# SPDX-License-Identifier: Apache-2.0
"""The load that a model is measured under: how many streams, and how many steps in a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..contract import ArraySpec, Contract
from ..errors import InputError
from ..model import Model
from ..shown import counted
from ..validation import single

#: The size of axes other than batch and time.
_OTHER_SIZE: Final = 4
#: Random integers are below this.
_INTEGER_LIMIT: Final = 4


@dataclass(frozen=True)
class Workload:
    """`streams` live sequences, each of which receives `time` steps per call."""

    streams: int
    time: int

    def __str__(self) -> str:
        return f"{counted(self.streams, 'stream')}, {counted(self.time, 'step')}"


def step_call(model: Model, load: Workload) -> Callable[[], Any]:
    """A function that makes one call under a load; it carries the state from call to call.

    The inputs are random, and the same in every call. A single sequence is a `Stream`. Several
    sequences are a `Pool`, all of whose streams step in each call. A network that cannot stream is
    called with a whole batch, from its initial state.

    Raises:
        InputError: the load has several streams or steps, and the model has no such axis.
    """
    _check_axes(model.contract, load)
    inputs = random_inputs(model.contract, load)

    if model.contract.streaming.ok is False:
        return lambda: model.run(inputs)
    if load.streams > 1:
        return _pool_call(model, load, inputs)
    return _stream_call(model, inputs)


def _check_axes(contract: Contract, load: Workload) -> None:
    axes = {axis for spec in contract.inputs for axis in spec.shape}
    if load.time > 1 and "time" not in axes:
        raise InputError(
            f"The model has no time axis, and {load.time} steps were requested. Measure it with "
            "one step per call."
        )
    if load.streams > 1 and "batch" not in axes:
        raise InputError(
            f"The model has no batch axis, and {load.streams} streams were requested. Measure it "
            "with one stream."
        )


def _pool_call(model: Model, load: Workload, inputs: dict[str, NDArray[Any]]) -> Callable[[], Any]:
    pool = model.pool(load.streams)
    streams = pool.open(load.streams)

    # A single input is passed as an array, which is faster than a dict.
    xs = single(inputs)
    return lambda: pool.step(streams, xs)


def _stream_call(model: Model, inputs: dict[str, NDArray[Any]]) -> Callable[[], Any]:
    stream = model.stream()
    if len(inputs) == 1:
        x = next(iter(inputs.values()))
        return lambda: stream(x)
    return lambda: stream.run(inputs)


def random_inputs(contract: Contract, load: Workload, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random arrays for the model's inputs, by name; the same for the same seed.

    Floats are normally distributed. Integers are from 0 to 3, and row lengths are the whole axis.
    Axes other than batch and time have the size 4.
    """
    random = np.random.default_rng(seed)
    sizes = {"batch": load.streams, "time": load.time}
    return {spec.name: _random_array(spec, sizes, random) for spec in contract.inputs}


def _random_array(
    spec: ArraySpec, sizes: dict[str, int], random: np.random.Generator
) -> NDArray[Any]:
    shape = [sizes.get(axis, _OTHER_SIZE) if isinstance(axis, str) else axis for axis in spec.shape]
    if spec.lengths_of is not None:
        return np.full(shape, sizes.get(spec.lengths_of, _OTHER_SIZE), spec.dtype)

    kind = np.dtype(spec.dtype).kind
    if kind == "f":
        return random.standard_normal(shape).astype(spec.dtype)

    limit = 2 if kind == "b" else _INTEGER_LIMIT
    return random.integers(0, limit, shape).astype(spec.dtype)
