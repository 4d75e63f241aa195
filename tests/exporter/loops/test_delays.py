# SPDX-License-Identifier: Apache-2.0
"""Loops that keep values for more than one step, under other names or in a list."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stateport_exporter import Spec, export
from tests.chunks import check_chunks
from tests.exporter.loops.rolled import PAIRS, Looping, check_loop

H = Spec("float32", "batch", 4)


def former_input(net: Looping, x: Tensor) -> Any:
    previous, h, ys = x.new_zeros(x.size(0), 2), x.new_zeros(x.size(0), 4), []
    for t in range(x.size(1)):
        h = torch.tanh(net.recurrent(torch.cat([x[:, t], previous], 1)) + net.recurrent(h))
        previous = x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def difference(net: Looping, x: Tensor) -> Any:
    previous, h, ys = torch.zeros(x.size(0), 2), torch.zeros(x.size(0), 4), []
    for x_t in x.unbind(1):
        h = torch.tanh(net.inner(x_t - previous) + net.recurrent(h))
        previous = x_t
        ys.append(h)
    return torch.stack(ys, 1)


def only_former_input(net: Looping, x: Tensor) -> Any:
    previous, h, ys = x.new_zeros(x.size(0), 2), x.new_zeros(x.size(0), 4), []
    for t in range(x.size(1)):
        h = torch.tanh(net.inner(previous) + net.recurrent(h))
        previous = x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def last_two(net: Looping, x: Tensor) -> Any:
    p1 = p2 = x.new_zeros(x.size(0), 4)
    ys = []
    for t in range(x.size(1)):
        new = torch.tanh(net.inner(x[:, t]) + net.of_two(torch.cat([p1, p2], 1)))
        p2, p1 = p1, new
        ys.append(new)
    return torch.stack(ys, 1)


def last_two_backwards(net: Looping, x: Tensor) -> Any:
    return last_two(net, x.flip(1)).flip(1) + last_two(net, x)


def two_loops(net: Looping, x: Tensor) -> Any:
    ys = last_two(net, x).unbind(1)
    p1 = p2 = x.new_zeros(x.size(0), 4)
    zs = []
    for y in ys:
        p2, p1 = p1, torch.tanh(y + net.of_two(torch.cat([p1, p2], 1)))
        zs.append(p1)
    return torch.stack(zs, 1)


def list_of_results(net: Looping, x: Tensor) -> Any:
    ys = [torch.zeros(x.size(0), 4), torch.ones(x.size(0), 4)]
    for t in range(x.size(1)):
        ys.append(torch.tanh(net.inner(x[:, t]) + net.of_two(torch.cat([ys[-1], ys[-2]], 1))))
    return torch.stack(ys[2:], 1)


def deque_of_results(net: Looping, x: Tensor) -> Any:
    last, ys = collections.deque([x.new_zeros(x.size(0), 4)] * 3, maxlen=3), []
    for t in range(x.size(1)):
        last.append(torch.tanh(net.inner(x[:, t]) + net.of_three(torch.cat([*last], 1))))
        ys.append(last[-1])
    return torch.stack(ys, 1)


def mean_of_inputs(net: Looping, x: Tensor) -> Any:
    last, h, ys = [x.new_zeros(x.size(0), 2)] * 6, x.new_zeros(x.size(0), 4), []
    for t in range(x.size(1)):
        last = [*last[1:], x[:, t]]
        h = torch.tanh(net.inner(torch.stack(last, 1).mean(1)) + net.recurrent(h))
        ys.append(h)
    return torch.stack(ys, 1)


def filter_in_place(net: Looping, x: Tensor) -> Any:
    y = x.new_zeros(x.size(0), x.size(1) + 2, 2)
    for t in range(x.size(1)):
        y[:, t + 2] = x[:, t] - 0.5 * y[:, t + 1] - 0.3 * y[:, t]
    return y[:, 2:]


def filter_by_windows(net: Looping, x: Tensor) -> Any:
    """As torchaudio's `lfilter`: each step reads a window of the results that are written."""
    y = torch.zeros(x.size(0), x.size(1) + 2, 2)
    factors = torch.tensor([[0.3], [0.5], [1.0]])
    for t, x_t in enumerate(x.unbind(1)):
        y[:, t + 2] = x_t - (y[:, t : t + 3] * factors).sum(1)
    return y[:, 2:]


def biquad(net: Looping, x: Tensor) -> Any:
    y1 = y2 = x1 = x2 = torch.zeros(x.size(0), 2)
    ys = []
    for t in range(x.size(1)):
        y = x[:, t] + 0.4 * x1 + 0.2 * x2 - 0.5 * y1 - 0.3 * y2
        x2, x1, y2, y1 = x1, x[:, t], y1, y
        ys.append(y)
    return torch.stack(ys, 1)


def four_steps_ago(net: Looping, x: Tensor) -> Any:
    ys = [x.new_zeros(x.size(0), 4) for _ in range(4)]
    for t in range(x.size(1)):
        ys.append(torch.tanh(net.inner(x[:, t]) + net.recurrent(ys[t])))
    return torch.stack(ys[4:], 1)


def positions(net: Looping, x: Tensor) -> Any:
    now = before = torch.zeros(x.size(0), 2)
    ys = []
    for t in range(x.size(1)):
        now, before = 2 * now - before + 0.01 * (x[:, t] - now), now
        ys.append(now)
    return torch.stack(ys, 1)


@pytest.mark.parametrize(
    "function",
    [
        former_input,
        difference,
        only_former_input,
        last_two,
        last_two_backwards,
        two_loops,
        list_of_results,
        deque_of_results,
        mean_of_inputs,
        filter_in_place,
        filter_by_windows,
        biquad,
        four_steps_ago,
        positions,
    ],
)
def test_values_kept_for_several_steps(function: Callable[..., Any]) -> None:
    check_loop(function)


def two_given(net: Looping, x: Tensor, p1: Tensor, p2: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        new = torch.tanh(net.inner(x[:, t]) + net.of_two(torch.cat([p1, p2], 1)))
        p2, p1 = p1, new
        ys.append(new)
    return torch.stack(ys, 1), p1, p2


def window_given(net: Looping, x: Tensor, last: Tensor) -> Any:
    ys, kept = [], list(last.unbind(1))
    for t in range(x.size(1)):
        kept = [*kept[1:], torch.tanh(net.inner(x[:, t]) + net.of_three(torch.cat(kept, 1)))]
        ys.append(kept[-1])
    return torch.stack(ys, 1), torch.stack(kept, 1)


@pytest.mark.parametrize(
    ("function", "specs", "states"),
    [
        (mean_of_inputs, (PAIRS,), [(2,)] * 5 + [(4,)]),
        (filter_in_place, (PAIRS,), [(2,), (2,)]),
        (two_given, (PAIRS, H, H), [(4,), (4,)]),
        (window_given, (PAIRS, Spec("float32", "batch", 3, 4)), [(3, 4)]),
    ],
)
def test_values_kept_for_several_steps_are_states(
    function: Callable[..., Any], specs: tuple[Spec, ...], states: list[Any], tmp_path: Path
) -> None:
    result = export(Looping(function).eval(), specs, tmp_path / "model.onnx")
    assert result.contract.streaming.ok
    assert [state.shape[1:] for state in result.contract.states] == states
    check_chunks(tmp_path / "model.onnx")
