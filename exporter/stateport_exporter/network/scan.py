# SPDX-License-Identifier: Apache-2.0
"""The loop over time as a function, as `torch.lstm` is one for `nn.LSTM`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .program import Body


class NoStepError(ValueError):
    """A loop has no step, which ONNX Runtime's Scan cannot run."""


def scan(
    body: Body,
    states: Sequence[Tensor],
    sequences: Sequence[Tensor],
    invariants: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Runs the step along the first axis of the sequences.

    A `TorchFunctionMode` sees the whole loop as one call.

    Returns:
        the last states, then every output of the steps, stacked along a new first axis.

    Raises:
        NoStepError: the sequences have no step.
    """
    tensors = (*states, *sequences, *invariants)
    if has_torch_function(tensors):
        result: tuple[Tensor, ...] = handle_torch_function(
            scan, tensors, body, states, sequences, invariants
        )
        return result

    if len(sequences[0]) == 0:
        raise NoStepError("a loop without a single step, which ONNX Runtime's Scan cannot run")

    current: Sequence[Tensor] = states
    steps: list[list[Tensor]] = []
    for number in range(len(sequences[0])):
        slices = [sequence[number] for sequence in sequences]
        current, outputs = body.step(current, slices, invariants)
        steps.append(outputs)

    return (*current, *map(torch.stack, zip(*steps, strict=True)))
