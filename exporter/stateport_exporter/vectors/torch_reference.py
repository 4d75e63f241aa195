# SPDX-License-Identifier: Apache-2.0
"""The module as a function of named arrays, as the exported graph is one."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stateport.contract import Contract
from stateport.errors import first_line
from stateport.parity.vectors import Case, Rows, call_inputs, results, rows
from stateport.validation import initial_state

from ..errors import ExportError
from ..network.example import Example
from ..network.explicit import Explicit
from ..network.isolation import computing_in, evaluation_twin, float64_copy
from ..network.trees import map_only, tensors_in

Array = NDArray[Any]
Answers = dict[str, Rows]


class Network:
    """The module as a function of named arrays, as the exported graph is one.

    `dtype` is what the network computes in.

    Args:
        module: the author's module, with explicit states.
        example: what its forward takes.
        inputs: the graph's names of the flattened arguments, in order.
        results: the graph's names of the flattened results, in order. None marks a result that the
            graph does not return.
        initial: the first values of states that do not start from zeros, by name.
        reached: the names of states that cannot be any numbers, as a sum of squares. Sequences
            that start from random states start from such as the network reaches.
    """

    def __init__(
        self,
        module: Explicit,
        example: Example,
        inputs: Sequence[str],
        results: Sequence[str | None],
        initial: Mapping[str, Array],
        reached: Collection[str] = (),
    ) -> None:
        self.module = module
        self.example = example
        self.inputs = inputs
        self.results = results
        self.initial = initial
        self.reached = frozenset(reached)

        self.dtype = torch.float32
        self._template = example.make(example.sizes)

    def in_float64(self) -> Network:
        """The same network computing in float64."""
        double = copy.copy(self)
        double.module = float64_copy(self.module)
        double.dtype = torch.float64
        return double

    def starting_from_reached(self, states: Collection[str]) -> Network:
        """The same network, of whose states these cannot be any numbers."""
        copied = copy.copy(self)
        copied.reached = self.reached | frozenset(states)
        return copied

    def with_ulp_noise(self, seed: int) -> Network:
        """The same network with every parameter off by one unit in the last place of float32."""
        noisy = copy.copy(self)
        noisy.module = evaluation_twin(self.module, share_parameters=False)

        random = torch.Generator().manual_seed(seed)
        for parameter in noisy.module.parameters():
            sign = torch.randint(0, 2, parameter.shape, generator=random) * 2 - 1
            parameter.mul_(1 + sign * torch.finfo(torch.float32).eps)
        return noisy

    def __call__(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """One call: the inputs by name -> the results by name.

        Floating-point inputs are converted to the network's dtype.
        """
        tensors = iter([self._to_tensor(arrays[name]) for name in self.inputs])
        # A NamedTuple, taken as a plain one: each of its parts is an argument.
        arguments = map_only(Tensor, lambda _: next(tensors), tuple(self._template))

        with computing_in(self.dtype):
            results = tensors_in(self.module(*arguments))

        if len(results) != len(self.results):
            raise ValueError(
                "forward calls its recurrent layers another number of times, or returns another "
                "number of tensors, than at the size that it was traced at. Let it do the same at "
                "every size"
            )
        named = zip(self.results, results, strict=True)

        arrays = {}
        for name, tensor in named:
            if name is not None:
                arrays[name] = tensor.numpy()
        return arrays

    def _to_tensor(self, array: Array) -> Tensor:
        tensor = torch.from_numpy(np.array(array))
        if tensor.is_floating_point():
            return tensor.to(self.dtype)
        return tensor


def run_reference(network: Network, contract: Contract, case: Case) -> Answers:
    """The network's answers to a case, as rows; those of states after every call.

    Raises:
        ExportError: the network fails.
    """
    sizes = {"time": case.chunks[0], **case.sizes}
    state = dict(case.initial) or dict(initial_state(contract, network.initial, sizes))
    answers = []
    for inputs in call_inputs(contract, case):
        try:
            answer = network({**inputs, **state})
        except Exception as error:  # the user's forward may raise anything
            raise ExportError(
                f"The network fails on {case.name!r}, a size that it was not traced at: "
                f"{first_line(error)}"
            ) from error
        state = {spec.input: answer[spec.output] for spec in contract.states}
        answers.append(answer)

    tables = {}
    for spec in results(contract):
        tables[spec.name] = rows(spec, case, [answer[spec.name] for answer in answers])
    return tables


def float64_reference(network: Network, contract: Contract, case: Case) -> Network:
    """The network in float64; as it is if it cannot run, or does not answer, in float64."""
    try:
        double = network.in_float64()
        answers = run_reference(double, contract, case)
    except ExportError:
        return network

    for spec in results(contract):
        is_float = spec.dtype.startswith("float")
        if is_float and answers[spec.name].table.dtype != np.float64:
            return network
    return double
