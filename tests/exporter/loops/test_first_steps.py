# SPDX-License-Identifier: Apache-2.0
"""Loops whose first step differs from the others, because the state comes from it."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stateport_exporter import export
from tests.chunks import check_chunks
from tests.exporter.loops.rolled import PAIRS, Looping, check_loop


def no_state_at_first(net: Looping, x: Tensor) -> Any:
    h, ys = None, []
    for t in range(x.size(1)):
        a = net.inner(x[:, t])
        if h is not None:
            a = a + net.recurrent(h)
        h = torch.tanh(a)
        ys.append(h)
    return torch.stack(ys, 1)


def mean_as_pcen_has_it(net: Looping, x: Tensor) -> Any:
    last, means = None, []
    for frame in torch.split(x, 1, -2):
        last = frame if last is None else 0.975 * last + 0.025 * frame
        means.append(last)
    return x / (torch.cat(means, 1).abs() + 1e-3)


def mean_from_the_first(net: Looping, x: Tensor) -> Any:
    mean, ys = x[:, 0], []
    for t in range(x.size(1)):
        mean = 0.9 * mean + 0.1 * x[:, t]
        ys.append(x[:, t] - mean)
    return torch.stack(ys, 1)


def begins_later(net: Looping, x: Tensor) -> Any:
    ys = [torch.tanh(net.inner(x[:, 0]))]
    for t in range(1, x.size(1)):
        ys.append(torch.tanh(net.inner(x[:, t]) + net.recurrent(ys[-1])))
    return torch.stack(ys, 1)


def results_of_states(net: Looping, x: Tensor) -> Any:
    h = torch.tanh(net.inner(x[:, 0]))
    ys = [net.recurrent(h)]
    for t in range(1, x.size(1)):
        h = torch.tanh(net.inner(x[:, t]) + net.recurrent(h))
        ys.append(net.recurrent(h))
    return torch.stack(ys, 1)


def difference_to_the_former(net: Looping, x: Tensor) -> Any:
    previous, h, ys = x[:, 0], torch.zeros(x.size(0), 4), []
    for t in range(x.size(1)):
        h = torch.tanh(net.inner(x[:, t] - previous) + net.recurrent(h))
        previous = x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def of_what_a_layer_gives(net: Looping, x: Tensor) -> Any:
    z = net.inner(x)
    h, ys = torch.sigmoid(z[:, 0]), []
    for t in range(x.size(1)):
        h = 0.5 * h + 0.5 * torch.tanh(z[:, t])
        ys.append(h)
    return torch.stack(ys, 1)


def written_in_place(net: Looping, x: Tensor) -> Any:
    y = torch.zeros_like(x)
    y[:, 0] = x[:, 0]
    for t in range(1, x.size(1)):
        y[:, t] = 0.8 * y[:, t - 1] + 0.2 * x[:, t]
    return y


def quasi_recurrent(net: Looping, x: Tensor) -> Any:
    """As the QRNN: what the first step gives is computed of a step that was moved by one."""
    moved = torch.cat([x[:, :1] * 0, x[:, :-1]], 1)
    z, forget = torch.tanh(net.inner(moved)), torch.sigmoid(net.inner(x))
    previous, ys = None, []
    for t, h in enumerate(torch.split(forget * z, 1, 1)):
        if previous is not None:
            h = h + (1 - forget[:, t : t + 1]) * previous
        previous = h
        ys.append(h)
    return torch.cat(ys, 1)


def seasons(net: Looping, x: Tensor) -> Any:
    """As the ES-RNN: the level begins with the first step, and seasons return after four."""
    season = [net.inner.bias[k].exp().expand(x.size(0), 2) for k in (0, 1, 2, 3, 0)]
    levels = [x[:, 0] / season[0]]
    for t in range(1, x.size(1)):
        levels.append(0.3 * (x[:, t] / season[t]) + 0.7 * levels[t - 1])
        season.append(0.2 * (x[:, t] / (1 + levels[t].abs())) + 0.8 * season[t])
    return torch.stack(levels, 1)


def integral(net: Looping, x: Tensor) -> Any:
    """The trapezoidal rule: each step uses the step before, and the first gives zeros."""
    total = torch.zeros(x.size(0), 2)
    ys = [total]
    for t in range(1, x.size(1)):
        total = total + 0.5 * (x[:, t] + x[:, t - 1])
        ys.append(total)
    return torch.stack(ys, 1)


def differences(net: Looping, x: Tensor) -> Any:
    ys = [torch.zeros_like(x[:, 0])]
    for t in range(1, x.size(1)):
        ys.append(x[:, t] - x[:, t - 1])
    return torch.stack(ys, 1)


def as_an_ode(net: Looping, x: Tensor) -> Any:
    """As an ODE-RNN: Euler's method, with the time since the step before."""
    times, h = x[..., :1].cumsum(1), torch.tanh(net.inner(x[:, 0]))
    ys = [h]
    for t in range(1, x.size(1)):
        h = h + (times[:, t] - times[:, t - 1]) * torch.tanh(net.recurrent(h))
        h = torch.tanh(net.inner(x[:, t]) + h)
        ys.append(h)
    return torch.stack(ys, 1)


def mean_of_three(net: Looping, x: Tensor) -> Any:
    earlier = previous = x[:, 0]
    ys = []
    for t in range(x.size(1)):
        ys.append((earlier + previous + x[:, t]) / 3)
        earlier, previous = previous, x[:, t]
    return torch.stack(ys, 1)


def without_the_last(net: Looping, x: Tensor) -> Any:
    """The loop ends before the sequence, and another sequence is as short as the loop."""
    shorter, h, ys = net.inner(x[:, :-1]), torch.tanh(net.inner(x[:, 0])), []
    for t in range(x.size(1) - 1):
        h = torch.tanh(net.inner(x[:, t]) + net.recurrent(h) + shorter[:, t])
        ys.append(h)
    return torch.stack([torch.zeros_like(h), *ys], 1)


def normalised(net: Looping, x: Tensor) -> Any:
    mean, ys = x[:, 0], []
    variance = torch.ones_like(mean)
    for t in range(x.size(1)):
        away = x[:, t] - mean
        mean = mean + 0.1 * away
        variance = 0.9 * (variance + 0.1 * away * away)
        ys.append((x[:, t] - mean) / (variance + 1e-5).sqrt())
    return torch.stack(ys, 1)


@pytest.mark.parametrize(
    "function",
    [
        no_state_at_first,
        mean_as_pcen_has_it,
        mean_from_the_first,
        begins_later,
        results_of_states,
        difference_to_the_former,
        of_what_a_layer_gives,
        written_in_place,
        integral,
        differences,
        as_an_ode,
        mean_of_three,
        normalised,
        seasons,
        quasi_recurrent,
    ],
)
def test_a_first_step_of_another_kind(function: Callable[..., Any]) -> None:
    check_loop(function)


def test_a_loop_that_ends_before_the_sequence() -> None:
    check_loop(without_the_last, shortest=2)


@pytest.mark.parametrize(
    ("function", "states"),
    [
        (no_state_at_first, {(4,), (1,)}),
        (mean_as_pcen_has_it, {(1, 2), (1, 1)}),
        (difference_to_the_former, {(1,), (2,), (4,)}),
        (integral, {(1,), (2,)}),
    ],
)
def test_whether_a_loop_has_begun_is_a_state(
    function: Callable[..., Any], states: set[Any], tmp_path: Path
) -> None:
    result = export(Looping(function).eval(), (PAIRS,), tmp_path / "model.onnx")
    assert result.contract.streaming.ok
    assert {state.shape[1:] for state in result.contract.states} == states
    check_chunks(tmp_path / "model.onnx")


def mean_of_all(net: Looping, x: Tensor) -> Any:
    mean, ys = x.mean(1), []
    for t in range(x.size(1)):
        mean = 0.9 * mean + 0.1 * x[:, t]
        ys.append(x[:, t] - mean)
    return torch.stack(ys, 1)


def mean_of_two(net: Looping, x: Tensor) -> Any:
    mean, ys = 0.5 * (x[:, 0] + x[:, 1]), []
    for t in range(x.size(1)):
        mean = 0.9 * mean + 0.1 * x[:, t]
        ys.append(x[:, t] - mean)
    return torch.stack(ys, 1)


def begins_with_the_third(net: Looping, x: Tensor) -> Any:
    ys = [net.inner(x[:, 0]), net.inner(x[:, 1])]
    for t in range(2, x.size(1)):
        ys.append(torch.tanh(net.inner(x[:, t]) + net.recurrent(ys[-1])))
    return torch.stack(ys, 1)


def with_the_last_two_once_there(net: Looping, x: Tensor) -> Any:
    h, history = x.new_zeros(x.size(0), 4), list[Tensor]()
    for t in range(x.size(1)):
        h = torch.tanh(net.inner(x[:, t]) + net.recurrent(h))
        if len(history) >= 2:
            h = h + net.of_two(torch.cat(history[-2:], 1))
        history.append(h)
    return torch.stack(history, 1)


def means_of_a_deque_that_fills_up(_net: Looping, x: Tensor) -> Any:
    last, ys = collections.deque[Tensor](maxlen=3), []
    for t in range(x.size(1)):
        last.append(x[:, t])
        ys.append(torch.stack(list(last)).mean(0))
    return torch.stack(ys, 1)


def other_weights_at_first(net: Looping, x: Tensor) -> Any:
    h, ys = x.new_zeros(x.size(0), 4), []
    for t in range(x.size(1)):
        a = net.recurrent(h) if t < 3 else net.of_two(torch.cat([h, h], 1))
        h = torch.tanh(a + net.inner(x[:, t]))
        ys.append(h)
    return torch.stack(ys, 1)


def first_step_in_all(net: Looping, x: Tensor) -> Any:
    mean = first = x[:, 0]
    ys = []
    for t in range(x.size(1)):
        mean = 0.9 * mean + 0.1 * x[:, t]
        ys.append(first - mean)
    return torch.stack(ys, 1)


MADE_IN_THE_CALL = "loop starts every call from a state that is made in the call itself"


@pytest.mark.parametrize(
    ("function", "reason", "shortest"),
    [
        (mean_of_all, MADE_IN_THE_CALL, 1),
        (mean_of_two, MADE_IN_THE_CALL, 2),
        (begins_with_the_third, MADE_IN_THE_CALL, 3),
        (with_the_last_two_once_there, MADE_IN_THE_CALL, 3),
        (means_of_a_deque_that_fills_up, "forward takes step 0 of each call", 3),
        (other_weights_at_first, MADE_IN_THE_CALL, 3),
        (first_step_in_all, "forward takes step 0 of each call", 1),
    ],
)
def test_other_first_states_do_not_stream(
    function: Callable[..., Any], reason: str, shortest: int, tmp_path: Path
) -> None:
    result = export(Looping(function).eval(), (PAIRS,), tmp_path / "model.onnx")
    assert not result.contract.streaming.ok
    assert result.contract.streaming.reason == reason
    assert dict(result.contract.minimums).get("time", 1) == shortest
    notes = [
        note for note in result.notes if "steps or more, while forward takes others, too" in note
    ]
    takes_shorter = function is not mean_of_two  # which reads both steps
    assert len(notes) == (shortest > 1 and takes_shorter)
