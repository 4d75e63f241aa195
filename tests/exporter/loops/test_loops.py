"""Loops over time: rolled up into one step whatever way they are written in, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import stateport
from stateport_exporter import ExportError, Spec, export
from stateport_exporter.loops import roll_loops
from stateport_exporter.network.example import Example

X = Spec("float32", "batch", "time", 5)
H = Spec("float32", "batch", 6)


class Looping(nn.Module):
    """Cells, and a forward of the test's own."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.gru = nn.GRUCell(5, 6)
            self.upper = nn.GRUCell(6, 6)
            self.back = nn.GRUCell(5, 6)
            self.lstm = nn.LSTMCell(5, 6)
            self.whole = nn.GRU(5, 6, batch_first=True)
            self.single = nn.LSTM(5, 6)
            self.inner = nn.Linear(5, 6)
            self.recurrent = nn.Linear(6, 6, bias=False)
            self.head = nn.Linear(6, 5)
            self.first = nn.Parameter(torch.rand(6))
            self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)

    def zeros(self, x: Tensor) -> Tensor:
        return torch.zeros(x.size(0), 6)


def stacked(net: Looping, x: Tensor) -> Any:
    h, ys = net.zeros(x), []
    for t in range(x.size(1)):
        h = net.gru(x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def grown(net: Looping, x: Tensor) -> Any:
    h, ys = net.zeros(x), torch.zeros(x.size(0), 0, 6)
    for t in range(x.size(1)):
        h = net.gru(x[:, t], h)
        ys = torch.cat([ys, h.unsqueeze(1)], dim=1)
    return ys


def grown_from_nothing(net: Looping, x: Tensor) -> Any:
    h, ys = net.zeros(x), None
    for x_t in x.unbind(1):
        h = net.gru(x_t, h)
        ys = h.unsqueeze(1) if ys is None else torch.cat([ys, h.unsqueeze(1)], dim=1)
    return ys


def filled(net: Looping, x: Tensor) -> Any:
    x = x.transpose(0, 1)
    out, h = x.new_zeros(x.size(0), x.size(1), 6), x.new_zeros(x.size(1), 6)
    for t, x_t in enumerate(x):
        h = net.gru(x_t, h)
        out[t] = h
    return out


def filled_and_read(net: Looping, x: Tensor) -> Any:
    out = torch.zeros(x.size(0), x.size(1) + 1, 6)
    for t in range(x.size(1)):
        out[:, t + 1] = net.gru(x[:, t], out[:, t])
    return out[:, 1:]


def in_chunks(net: Looping, x: Tensor) -> Any:
    h, ys = net.zeros(x), []
    for x_t in x.chunk(x.size(1), 1):
        h = net.gru(x_t.squeeze(1), h)
        ys.append(h[:, None])
    return torch.cat(ys, 1)


def both_directions(net: Looping, x: Tensor) -> Any:
    h, forth = net.zeros(x), []
    for t in range(x.size(1)):
        h = net.gru(x[:, t], h)
        forth.append(h)
    h = net.zeros(x)
    back: list[Tensor] = []
    for t in range(x.size(1) - 1, -1, -1):
        h = net.back(x[:, t], h)
        back.insert(0, h)
    return torch.cat([torch.stack(forth, 1), torch.stack(back, 1)], -1)


def layer_by_layer(net: Looping, x: Tensor) -> Any:
    steps = [x[:, t] for t in range(x.size(1))]
    for cell in (net.gru, net.upper):
        h, out = net.zeros(x), []
        for step in steps:
            h = cell(step, h)
            out.append(h)
        steps = out
    return torch.stack(steps, dim=1)


def changed_in_place_between(net: Looping, x: Tensor) -> Any:
    h, ys = net.zeros(x), []
    for x_t in x.unbind(1):
        h = net.gru(x_t, h)
        ys.append(h)
    z = torch.relu_(net.head(torch.stack(ys, 1).flatten(0, 1)).unsqueeze(-1))
    z = z.squeeze(-1).reshape(x.shape[0], x.shape[1], 5)
    h, ys = net.zeros(x), []
    for z_t in z.unbind(1):
        h = net.gru(z_t, h)
        ys.append(h)
    return torch.stack(ys, 1)


def layers_in_a_step(net: Looping, x: Tensor) -> Any:
    states, ys = [net.zeros(x), net.zeros(x)], []
    for t in range(x.size(1)):
        z = x[:, t]
        for number, cell in enumerate((net.gru, net.upper)):
            z = states[number] = cell(z, states[number])
        ys.append(net.head(z))
    return torch.stack(ys, 1), torch.stack(states)


def inner_loop(net: Looping, x: Tensor) -> Any:
    """A liquid time-constant cell: several steps of a solver in each step of time."""
    h, ys = net.zeros(x), []
    for t in range(x.size(1)):
        inner = net.inner(x[:, t])
        for _ in range(3):
            gate = torch.sigmoid(inner + net.recurrent(h))
            h = h + 0.1 * (gate * (1 - h) - h * net.first)
        ys.append(h)
    return torch.stack(ys, 1)


def spikes(net: Looping, x: Tensor) -> Any:
    """A leaky integrate-and-fire cell, whose state is made in the first step."""
    membrane: Tensor | None = None
    fired, voltages = [], []
    for t in range(x.size(1)):
        current = net.inner(x[:, t])
        if membrane is None:
            membrane = torch.zeros_like(current)
        membrane = 0.9 * membrane + current
        spike = (membrane > 0.5).float()
        membrane = membrane - 0.5 * spike
        fired.append(spike)
        voltages.append(membrane)
    return torch.stack(fired, 1), torch.stack(voltages, 1)


def differences(net: Looping, x: Tensor) -> Any:
    h, ys = net.zeros(x), []
    for t in range(1, x.size(1)):
        h = net.gru(x[:, t] - x[:, t - 1], h)
        ys.append(h)
    return torch.stack(ys, 1)


def summed(net: Looping, x: Tensor) -> Any:
    h, total = net.zeros(x), 0.0
    for x_t in x.unbind(1):
        h = net.gru(x_t, h)
        total = total + h
    return total / x.size(1)


def two_steps_back(net: Looping, x: Tensor) -> Any:
    h, before, ys = net.zeros(x), net.zeros(x), []
    for t in range(x.size(1)):
        h, before = net.gru(x[:, t], torch.tanh(h + before)), h
        ys.append(h)
    return torch.stack(ys, 1)


def last_only(net: Looping, x: Tensor) -> Any:
    h = net.zeros(x)
    for x_t in x.unbind(1):
        h = net.gru(x_t, h)
    return net.head(h)


def reversed_list(net: Looping, x: Tensor) -> Any:
    h, ys = net.zeros(x), []
    for x_t in reversed(x.unbind(1)):
        h = net.gru(x_t, h)
        ys.append(h)
    return torch.stack(ys[::-1], 1)


def behind_a_layer(net: Looping, x: Tensor) -> Any:
    z, h, ys = net.whole(x)[0], net.zeros(x), []
    for t in range(x.size(1)):
        h = net.upper(z[:, t], h)
        ys.append(h)
    return net.head(torch.stack(ys, 1).reshape(-1, 6)).view(x.size(0), x.size(1), 5)


def layer_step_by_step(net: Looping, x: Tensor) -> Any:
    state, ys = None, []
    for t in range(x.size(1)):
        y, state = net.single(x[:, t].unsqueeze(0), state)
        ys.append(y)
    return torch.cat(ys).transpose(0, 1)


def learned_start(net: Looping, x: Tensor) -> Any:
    h: Tensor = net.first
    ys = []
    for t in range(x.size(1)):
        h = torch.tanh(net.inner(x[:, t]) + net.recurrent(h))
        ys.append(h)
    return torch.stack(ys, 1)


def window(net: Looping, x: Tensor) -> Any:
    kept, ys = torch.zeros(x.size(0), 3, 5), []
    for t in range(x.size(1)):
        kept = torch.cat([kept[:, 1:], x[:, t : t + 1]], 1)
        ys.append(kept.mean(1))
    return torch.stack(ys, 1)


LOOPS = [
    *(stacked, grown, grown_from_nothing, filled, filled_and_read, in_chunks, both_directions),
    *(
        layer_by_layer,
        changed_in_place_between,
        layers_in_a_step,
        inner_loop,
        spikes,
        differences,
        summed,
        two_steps_back,
    ),
    *(last_only, reversed_list, behind_a_layer, layer_step_by_step, learned_start, window),
]


@pytest.mark.parametrize("function", LOOPS, ids=lambda function: function.__name__)
def test_a_loop_is_rolled_up(function: Callable[..., Any]) -> None:
    net = Looping(function).eval()
    example = Example(net.forward, (X,))
    folded = roll_loops(net, "forward", example, ExportError("of fixed length"))
    assert len(folded.program.ops) < 25
    for batch, time in ((1, 2), (4, 9), (2, 30)):
        x = example.make({"batch": batch, "time": time}, seed=time).args[0]
        with torch.no_grad():
            expected, answer = pytree.tree_leaves(net(x)), pytree.tree_leaves(folded(x))
        for one, other in zip(expected, answer, strict=True):
            torch.testing.assert_close(one, other)


def taken(net: Looping, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
    (h, c), ys = state, []
    for t in range(x.size(1)):
        h, c = net.lstm(x[:, t], (h, c))
        ys.append(h)
    return torch.stack(ys, 1), (h, c)


def cleared(net: Looping, x: Tensor, done: Tensor) -> Any:
    h, ys = net.zeros(x), []
    for t in range(x.size(1)):
        h = net.gru(x[:, t], h * (1 - done[:, t : t + 1]))
        ys.append(h)
    return torch.stack(ys, 1), h


EXPORTED: dict[str, tuple[Callable[..., Any], tuple[Any, ...], int, bool]] = {
    "hidden state": (layers_in_a_step, (X,), 2, True),
    "state as an argument": (taken, (X, (H, H)), 2, True),
    "cleared in any step": (cleared, (X, Spec("float32", "batch", "time")), 1, True),
    "learned first state": (learned_start, (X,), 1, True),
    "both directions": (both_directions, (X,), 2, False),
}


@pytest.mark.patterns
@pytest.mark.parametrize(
    ("function", "example", "states", "streams"), EXPORTED.values(), ids=EXPORTED
)
def test_a_loop_is_exported(
    function: Callable[..., Any],
    example: tuple[Any, ...],
    states: int,
    streams: bool,
    tmp_path: Path,
) -> None:
    """`export` itself verifies the file: whole, in chunks, and over a long chain."""
    result = export(Looping(function), example, tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed
    assert len(result.contract.states) == states
    assert result.contract.streaming.ok == streams
    assert result.contract.axes >= {"batch", "time"}
    kinds = [node.op_type for node in onnx.load(result.path).graph.node]
    assert kinds.count("Scan") == (2 if function is both_directions else 1)


def test_a_loop_streams_step_by_step(tmp_path: Path) -> None:
    net = Looping(spikes).eval()
    result = export(net, (X,), tmp_path / "m.onnx")
    assert result.lifted == ("h0",)
    x = np.random.default_rng(0).standard_normal((2, 9, 5)).astype(np.float32)
    stream = stateport.load(result.path).stream()
    steps = [stream(x[:, t : t + 1]) for t in range(9)]
    with torch.no_grad():
        expected, _ = net(torch.from_numpy(x))
    np.testing.assert_array_equal(np.concatenate([s["y1"] for s in steps], 1), expected)


def counted(net: Looping, x: Tensor) -> Any:
    return torch.stack([net.inner(x[:, t]) * t**3 for t in range(x.size(1))], 1)


def attends_to_all(net: Looping, x: Tensor) -> Any:
    h = net.zeros(x)
    ys = [h]
    for t in range(x.size(1)):
        h = net.gru(x[:, t], h + torch.stack(ys, 1).mean(1))
        ys.append(h)
    return torch.stack(ys[1:], 1)


SAME, NONE = "does not do the same in every step", "it has no loop over single steps"


def until(net: Looping, x: Tensor) -> Any:
    """Looks alike at the lengths that are traced, and is another one later."""
    h, ys = net.zeros(x), []
    for t in range(x.size(1)):
        h = (net.gru if t < 7 else net.back)(x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


@pytest.mark.parametrize(
    "function",
    [counted, attends_to_all, until],
    ids=lambda function: function.__name__,
)
def test_steps_that_differ_are_refused(function: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"Looping .*({SAME}|{NONE})"):
        export(Looping(function), (X,), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


class Remembers(nn.Module):
    """Keeps the state of its loop in an attribute, and may change it between calls."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.cell = nn.GRUCell(5, 6)
        self.factor = factor
        self.h: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), 6) if self.h is None else self.factor * self.h
        ys = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            ys.append(h)
        self.h = h
        return torch.stack(ys, 1)


def test_the_state_of_a_loop_in_an_attribute(tmp_path: Path) -> None:
    result = export(Remembers(1.0), (X,), tmp_path / "m.onnx")
    assert result.lifted == ("h0",)


def test_a_state_that_changes_between_calls_is_in_the_attribute(tmp_path: Path) -> None:
    result = export(Remembers(0.5), (X,), tmp_path / "m.onnx")
    assert result.lifted == ("h",)
    assert not result.contract.streaming.ok


class RemembersAllRows(Remembers):
    """What it keeps belongs to no row of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        assert self.h is not None
        self.h = self.h.mean(0, keepdim=True).expand(x.size(0), -1)
        return y


def test_a_state_of_all_rows_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="RemembersAllRows remembers something from call to"):
        export(RemembersAllRows(1.0), (X,), tmp_path / "m.onnx")


class Cell(nn.Module):
    """A cell written by hand: one step, with no time axis."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.gates = nn.Linear(11, 6)
        self.function = function

    def forward(self, x: Tensor, hidden: Any, other: Any = None) -> Any:
        return self.function(self, x, hidden, other)


def next_only(net: Cell, x: Tensor, h: Tensor, _: object) -> Any:
    return torch.tanh(net.gates(torch.cat([x, h], -1)))


def output_and_pair(net: Cell, x: Tensor, state: tuple[Tensor, Tensor], _: object) -> Any:
    h, c = state
    c = 0.5 * c + net.gates(torch.cat([x, h], -1))
    return c.sum(-1), (torch.tanh(c), c)


def output_like_state(net: Cell, x: Tensor, membrane: Tensor, _: object) -> Any:
    membrane = 0.9 * membrane + net.gates(torch.cat([x, membrane], -1))
    return (membrane > 0).float(), membrane


def two_into_one(net: Cell, x: Tensor, h: Tensor, other: Tensor) -> Any:
    return net.gates(torch.cat([x, h + other], -1))


STEP = Spec("float32", "batch", 5)


@pytest.mark.parametrize(
    ("function", "example", "states"),
    [
        (next_only, (STEP, H), [("hidden", "hidden_n")]),
        (
            output_and_pair,
            (STEP, (H, H)),
            [("hidden_0", "next_hidden_0"), ("hidden_1", "next_hidden_1")],
        ),
        (output_like_state, (STEP, H), [("hidden", "hidden_n")]),
    ],
    ids=["next state only", "output and a pair", "output like the state"],
)
def test_a_network_that_is_a_step(
    function: Callable[..., Any], example: tuple[Any, ...], states: list[Any], tmp_path: Path
) -> None:
    net = Cell(function).eval()
    result = export(net, example, tmp_path / "m.onnx")
    assert [(s.input, s.output) for s in result.contract.states] == states
    assert [spec.name for spec in result.contract.outputs] == ["y"]
    assert result.contract.streaming.ok


def test_a_state_that_grows_without_bound_is_compared_as_far_as_float32_goes(
    tmp_path: Path,
) -> None:
    net = Cell(output_like_state).eval()
    with torch.no_grad():
        net.gates.weight.copy_(torch.eye(6, 11).roll(5, 1))
    result = export(net, (STEP, H), tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.truth == "float64"  # for all its .float()
    assert 100 < result.report.steps < 200  # 1.9 ** 125 is 7e34


class Two(Cell):
    """Which of the arguments gives the next state is anybody's guess."""

    def forward(self, x: Tensor, h: Any, prev_h: Any = None) -> Any:
        return two_into_one(self, x, h, prev_h)


def test_an_argument_without_a_next_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'h', 'prev_h' look like states"):
        export(Two(two_into_one), (STEP, H, H), tmp_path / "m.onnx")


def test_an_argument_that_is_no_state(tmp_path: Path) -> None:
    result = export(Cell(two_into_one), (STEP, H, H), tmp_path / "m.onnx")
    assert [s.input for s in result.contract.states] == ["hidden"]
    assert [spec.name for spec in result.contract.inputs] == ["x", "other"]
