# SPDX-License-Identifier: Apache-2.0
"""A network in PyTorch, to be timed beside its model by `stateport bench --against`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..network.example import Example
from ..network.isolation import evaluation_twin
from ..network.loading import load_target
from ..network.weights import load_weights
from .options import find_example, parse_argument

#: Makes a call of the network: (streams, steps, threads) -> call.
MakeCall = Callable[[int, int, int], Callable[[], object]]


def pytorch(
    target: str, arguments: Sequence[str], weights: Path | None, examples: Sequence[str]
) -> tuple[str, MakeCall]:
    """The network's name, "PyTorch 2.9.0", and a maker of calls of it.

    A call is the author's own forward, in evaluation and inference mode. It takes the same
    arguments every time: the values of the state do not change what a call costs.

    Args:
        target: the network, as `stateport export` takes it.
        arguments: NAME=VALUE, for the target.
        weights: a file of weights for the network to take.
        examples: the arguments of forward, as `stateport export` takes them.
    """
    module = load_target(target, dict(map(parse_argument, arguments)))
    twin = evaluation_twin(module, share_parameters=weights is None)
    if weights is not None:
        load_weights(twin, weights)
    example = Example(twin.forward, find_example(module, tuple(examples)))

    def make(streams: int, steps: int, threads: int) -> Callable[[], object]:
        inputs = example.make({"batch": streams, "time": steps})

        def call() -> object:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            with torch.inference_mode():
                return twin(*inputs.args, **inputs.kwargs)

        return call

    return f"PyTorch {torch.__version__.partition('+')[0]}", make
