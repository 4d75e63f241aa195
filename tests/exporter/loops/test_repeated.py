# SPDX-License-Identifier: Apache-2.0
"""Results that have the same tensor in every step, as the last state of a loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stateport_exporter import export
from tests.exporter.loops.rolled import PAIRS, Looping, check_loop


def last(net: Looping, x: Tensor) -> Tensor:
    h = x.new_zeros(x.size(0), 4)
    for t in range(x.size(1)):
        h = torch.tanh(net.inner(x[:, t]) + net.recurrent(h))
    return h


def overwritten(net: Looping, x: Tensor) -> Any:
    """The list holds one tensor, which each step writes into."""
    h, ys = x.new_zeros(x.size(0), 4), []
    for t in range(x.size(1)):
        h.mul_(0.9).add_(net.inner(x[:, t]))
        ys.append(h)
    return torch.stack(ys, 1)


def stacked(net: Looping, x: Tensor) -> Any:
    h = last(net, x)
    return net.inner(x) * torch.stack([h for _ in range(x.size(1))], 1)


def concatenated(net: Looping, x: Tensor) -> Any:
    h = last(net, x)
    return torch.cat([h] * x.size(1), 1).view(x.size(0), x.size(1), 4)


def concatenated_over_the_batch(net: Looping, x: Tensor) -> Any:
    return torch.cat([last(net, x)] * x.size(1)).view(x.size(1), x.size(0), 4).transpose(0, 1)


def written(net: Looping, x: Tensor) -> Any:
    h, ys = last(net, x), x.new_zeros(x.size(0), x.size(1), 4)
    for t in range(x.size(1)):
        ys[:, t] = h
    return ys


def used_in_each_step(net: Looping, x: Tensor) -> Any:
    h, ys = last(net, x), []
    for t in range(x.size(1)):
        ys.append(h * net.inner(x[:, t]))
    return torch.stack(ys, 1)


@pytest.mark.parametrize(
    "function",
    [
        overwritten,
        stacked,
        concatenated,
        concatenated_over_the_batch,
        written,
        used_in_each_step,
    ],
)
def test_such_results_are_right_at_any_length(function: Callable[..., Any]) -> None:
    check_loop(function)


@pytest.mark.parametrize("function", [overwritten, used_in_each_step])
def test_they_need_the_whole_sequence(function: Callable[..., Any], tmp_path: Path) -> None:
    contract = export(Looping(function), (PAIRS,), tmp_path / "m.onnx").contract
    assert [state.input for state in contract.states] == ["h0"]
    assert not contract.streaming.ok
    assert "uses the last state of loop in every step" in str(contract.streaming.reason)
