# SPDX-License-Identifier: Apache-2.0
"""PyTorch's control flow as operators: `scan`, `while_loop` and `map` are loops over time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, _higher_order_ops, nn

from stateport_exporter import ExportError, Spec, export
from tests.chunks import check_chunks

X = Spec("float32", "batch", "time", 5)
#: PyTorch gives these no types.
scan: Any = _higher_order_ops.scan
while_loop: Any = _higher_order_ops.while_loop
map_steps: Any = _higher_order_ops.map


class Network(nn.Module):
    """Two layers, and what is done with them."""

    def __init__(self, run: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.taken, self.kept, self.gru = nn.Linear(5, 4), nn.Linear(4, 4), nn.GRU(4, 4)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, self.taken(x))

    def step(self, h: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(u + self.kept(h))


def scanned(net: Network, u: Tensor, **named: Any) -> Tensor:
    def step(h: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        h = net.step(h, u)
        return h, h.clone()

    ys: Tensor = scan(step, u.new_zeros(u.shape[0], 4), u, dim=1, **named)[1]
    return ys


def scanned_in_containers(net: Network, u: Tensor) -> Tensor:
    """Two states and two results, by name."""

    def step(states: dict[str, Tensor], now: dict[str, Tensor]) -> Any:
        h = net.step(states["h"], now["u"])
        total = states["total"] + h
        return {"h": h, "total": total}, (total.clone(), h * 2)

    zeros = u.new_zeros(u.shape[0], 4)
    totals, doubled = scan(step, {"h": zeros, "total": zeros.clone()}, {"u": u}, dim=1)[1]
    result: Tensor = totals + doubled
    return result


def counted(net: Network, u: Tensor) -> Tensor:
    """The last state, by a loop that counts the steps in a tensor."""

    def goes_on(t: Tensor, h: Tensor) -> Tensor:
        return t < u.shape[1]

    def step(t: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return t + 1, net.step(h, u[:, int(t)])

    h: Tensor = while_loop(goes_on, step, (torch.tensor(0), u.new_zeros(u.shape[0], 4)))[1]
    return h


def counted_in_python(net: Network, u: Tensor) -> Tensor:
    def goes_on(t: int, h: Tensor) -> bool:
        return t < u.shape[1]

    def step(t: int, h: Tensor) -> tuple[int, Tensor]:
        return t + 1, net.step(h, u[:, t])

    h: Tensor = while_loop(goes_on, step, (0, u.new_zeros(u.shape[0], 4)))[1]
    return h


def mapped(net: Network, u: Tensor) -> Tensor:
    """Each step by itself, before a layer."""
    by_step = u.transpose(0, 1)
    y: Tensor = net.gru(map_steps(net.kept, by_step))[0].transpose(0, 1)
    return y


def chosen_in_a_loop(net: Network, u: Tensor) -> Tensor:
    """Loud steps are taken, and others let the state fade."""
    h, ys = u.new_zeros(u.shape[0], 4), []
    for t in range(u.shape[1]):
        step = u[:, t]
        is_loud = step.abs().mean() > 0.5
        h = torch.cond(is_loud, net.step, lambda h, _: 0.5 * h, (h, step))
        ys.append(h)
    return torch.stack(ys, 1)


STREAMING = [chosen_in_a_loop, scanned, scanned_in_containers, counted, counted_in_python, mapped]


@pytest.mark.parametrize("run", STREAMING)
def test_a_loop_as_an_operator_streams(run: Callable[..., Tensor], tmp_path: Path) -> None:
    result = export(Network(run).eval(), {"x": X}, tmp_path / "m.onnx")

    assert result.contract.streaming.ok
    check_chunks(result.path)


def test_a_scan_backwards_takes_whole_sequences(tmp_path: Path) -> None:
    network = Network(lambda net, u: scanned(net, u, reverse=True)).eval()

    result = export(network, {"x": X}, tmp_path / "m.onnx")

    assert "reverses time" in str(result.contract.streaming.reason)


def test_a_loop_that_values_end_is_refused(tmp_path: Path) -> None:
    def until_large(net: Network, u: Tensor) -> Tensor:
        def step(h: Tensor) -> tuple[Tensor]:
            return (h + net.step(h, u).abs() + 1,)

        h: Tensor = while_loop(lambda h: h.sum() < 100, step, (u,))[0]
        return h

    with pytest.raises(ExportError, match="has a while_loop that runs until values of tensors"):
        export(Network(until_large).eval(), {"x": X}, tmp_path / "m.onnx")
