"""tract's Python API; it computes on one core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tract

from ..contender import Array, Contender
from ..loads import Load
from ..networks import Network


def contenders(network: Network, load: Load, threads: int) -> Iterator[Contender]:
    """The network at fixed sizes, for which tract optimises it; states go on as its tensors."""
    if load.among is not None or threads > 1:
        return
    model = tract.onnx().load(str(network.path))
    state_shape = network.state_shape(load.streams)
    shapes = [(load.streams, load.time, network.input_size), state_shape, state_shape]
    for number, shape in enumerate(shapes):
        model.set_input_fact(number, ",".join([*map(str, shape), "f32"]))
        model.set_output_fact(number, None)
    runnable = model.into_model().into_runnable()
    zeros = np.zeros(state_shape, np.float32)
    state: list[Any] = [zeros, zeros]

    def step(x: Array) -> Any:
        y, *state[:] = runnable.run([x, *state])
        return y.to_numpy()

    yield Contender("tract", "tract", step)
