# SPDX-License-Identifier: Apache-2.0
"""Loops that take several steps in each pass, and loops that take no step of a sequence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stateport import InputError, load, verify
from stateport_exporter import ExportError, Spec, export
from tests.chunks import check_chunks

X = Spec("float32", "batch", "time", 4)
RELATIVES, THOROUGH = pytest.mark.patterns, pytest.mark.thorough


class Net(nn.Module):
    """What forward does is `run`; its name is that of the test."""

    def __init__(self, run: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.run = run
        self.cell, self.slow = nn.GRUCell(4, 4), nn.GRUCell(4, 4)
        self.pair = nn.GRUCell(8, 4)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.lstm_cell = nn.LSTMCell(4, 4)
        self.turns = nn.ModuleList([nn.GRUCell(4, 4) for _ in range(3)])
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)

    def zeros(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], 4)


def pairs(net: Net, x: Tensor) -> Tensor:
    h, ys = net.zeros(x), []
    for t in range(x.shape[1] // 2):
        h = net.pair(torch.cat([x[:, 2 * t], x[:, 2 * t + 1]], 1), h)
        ys.append(h)
    return torch.stack(ys, 1)


def every_third(net: Net, x: Tensor) -> Tensor:
    h, ys = net.zeros(x), []
    for t in range(0, x.shape[1], 3):
        h = net.cell(x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def layer_in_chunks(net: Net, x: Tensor) -> Tensor:
    h, ys = None, []
    for chunk in torch.split(x, 4, 1):
        y, h = net.gru(chunk, h)
        ys.append(y * chunk.mean((1, 2), keepdim=True))
    return torch.cat(ys, 1)


def largest_of_five(net: Net, x: Tensor) -> Tensor:
    h = c = net.zeros(x)
    ys = []
    for t in range(0, x.shape[1], 5):
        h, c = net.lstm_cell(x[:, t : t + 5].amax(1), (h, c))
        ys.append(h[:, None].expand(-1, 5, -1))
    return torch.cat(ys, 1)


def attention_in_chunks(net: Net, x: Tensor) -> Tensor:
    h, ys = net.zeros(x), []
    for t in range(0, x.shape[1], 4):
        chunk = x[:, t : t + 4]
        mixed = torch.softmax(chunk @ chunk.mT, -1) @ chunk + h[:, None]
        h = net.cell(mixed.mean(1), h)
        ys.append(mixed)
    return torch.cat(ys, 1)


def two_results_each(net: Net, x: Tensor) -> Tensor:
    h, ys = net.zeros(x), []
    for t in range(0, x.shape[1] - 1, 2):
        h = net.cell(x[:, t] - x[:, t + 1], h)
        ys += [h, -h]
    return torch.stack(ys, 1)


def written_in_turn(net: Net, x: Tensor) -> Tensor:
    h, y = net.zeros(x), torch.zeros_like(x)
    for t in range(0, x.shape[1] - 1, 2):
        h = net.cell(x[:, t], h)
        y[:, t] = h
        y[:, t + 1] = h * x[:, t + 1]
    return y


def clockwork(net: Net, x: Tensor) -> Tensor:
    h = slow = net.zeros(x)
    ys = []
    for t in range(x.shape[1]):
        if t % 4 == 0:
            slow = net.slow(h, slow)
        h = net.cell(x[:, t] + slow, h)
        ys.append(h)
    return torch.stack(ys, 1)


def clockwork_from_the_second_on(net: Net, x: Tensor) -> Tensor:
    h = slow = net.zeros(x)
    ys = []
    for t in range(x.shape[1]):
        if t >= 4 and t % 4 == 0:
            slow = net.slow(h, slow)
        h = net.cell(x[:, t] + slow, h)
        ys.append(h)
    return torch.stack(ys, 1)


def ring_of_the_last_states(net: Net, x: Tensor) -> Tensor:
    h, ys = net.zeros(x), []
    ring = x.new_zeros(x.shape[0], 3, 4)
    for t in range(x.shape[1]):
        h = net.cell(x[:, t] + ring.mean(1), h)
        ring[:, t % 3] = h
        ys.append(h)
    return torch.stack(ys, 1)


def cells_in_turn(net: Net, x: Tensor) -> Tensor:
    h, ys = net.zeros(x), []
    for t in range(x.shape[1]):
        h = net.turns[t % 3](x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


@pytest.mark.parametrize(
    ("run", "multiple", "steps", "lookahead"),
    [
        (pairs, 2, 1, 1),
        pytest.param(every_third, 3, 1, 0, marks=THOROUGH),
        pytest.param(layer_in_chunks, 4, 4, 3, marks=RELATIVES),
        pytest.param(largest_of_five, 5, 5, 4, marks=THOROUGH),
        pytest.param(attention_in_chunks, 4, 4, 3, marks=THOROUGH),
        pytest.param(two_results_each, 2, 2, 1, marks=THOROUGH),
        pytest.param(written_in_turn, 2, 2, 0, marks=THOROUGH),
        pytest.param(clockwork, 4, 4, 0, marks=RELATIVES),
        pytest.param(clockwork_from_the_second_on, 4, 4, 0, marks=THOROUGH),
        pytest.param(cells_in_turn, 3, 3, 0, marks=THOROUGH),
        pytest.param(ring_of_the_last_states, 3, 3, 0, marks=RELATIVES),
    ],
)
def test_a_loop_that_takes_several_steps_streams_in_such_chunks(
    run: Callable[..., Tensor], multiple: int, steps: int, lookahead: int, tmp_path: Path
) -> None:
    net = Net(run).eval()
    result = export(net, (X,), tmp_path / "m.onnx")
    contract = result.contract
    assert contract.streaming.ok, contract.streaming.reason
    assert contract.step_multiple == multiple
    assert contract.streaming.lookahead == lookahead
    assert f"multiples of {multiple} steps alone" in result.notes[0]

    model, x = load(result.path), torch.randn(2, 7 * multiple, 4)
    with torch.no_grad():
        expected = net(x).numpy()
    y, _ = model(x.numpy())
    assert y.shape[1] == 7 * steps
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    check_chunks(result.path)
    with pytest.raises(InputError, match=f"multiples of {multiple} alone"):
        model(x.numpy()[:, 1:])


def late_in_pieces(net: Net, x: Tensor) -> Tensor:
    """What is counted are passes, of which each takes twelve steps."""
    h = net.zeros(x)
    ys: list[Tensor] = []
    for piece in torch.split(x, 12, 1):
        h = net.cell(piece.mean(1), h)
        if len(ys) >= 60:
            h = h * 0.5
        ys.append(h)
    return torch.stack(ys, 1)


def late_in_one_of_eight(net: Net, x: Tensor) -> Tensor:
    h = slow = net.zeros(x)
    ys: list[Tensor] = []
    slows: list[Tensor] = []
    for t in range(x.shape[1]):
        h = net.cell(x[:, t] + slow, h)
        if t % 8 == 7:
            slow = net.slow(h, slow)
            slows.append(slow)
            if len(slows) > 32:
                slow = slow * 0.5
        ys.append(h)
    return torch.stack(ys, 1)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(late_in_pieces, marks=THOROUGH),
        pytest.param(late_in_one_of_eight, marks=RELATIVES),
    ],
)
def test_a_pass_that_differs_late_is_refused(run: Callable[..., Tensor], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not do the same in every step: at time"):
        export(Net(run).eval(), (X,), tmp_path / "m.onnx")


def half_as_many(net: Net, x: Tensor) -> Tensor:
    """The passes have no cell, and no step: their number alone follows from the length."""
    h, ys = net.cell.bias_hh[:4].expand(x.shape[0], 4), []
    for _ in range(x.shape[1] // 2):
        h = torch.tanh(h @ net.cell.weight_ih[:4])
        ys.append(h)
    return torch.stack(ys, 1)


def a_fifth_as_many(net: Net, x: Tensor) -> Tensor:
    h, ys = net.gru(x)[1][0], []
    for _ in range(x.shape[1] // 5):
        h = torch.tanh(h @ net.cell.weight_ih[:4])
        ys.append(h)
    return torch.stack(ys, 1)


def pieces_of_one_length(net: Net, x: Tensor) -> Tensor:
    """PyTorch takes multiples of two alone."""
    h, ys = net.zeros(x), []
    for piece in torch.split(x, 2, 1):
        h = net.pair(piece.flatten(1), h)
        ys.append(h)
    return torch.stack(ys, 1)


def as_many_as_it_has_bits(net: Net, x: Tensor) -> Tensor:
    h, ys = net.zeros(x), []
    for _ in range(x.shape[1].bit_length()):
        h = net.cell(x.mean(1), h)
        ys.append(h)
    return torch.stack(ys, 1)


def test_passes_by_another_rule_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="takes another way at another number of time steps"):
        export(Net(as_many_as_it_has_bits).eval(), (X,), tmp_path / "m.onnx")


def pieces_written(net: Net, x: Tensor) -> Tensor:
    h, y = net.zeros(x), torch.zeros_like(x)
    for t in range(0, x.shape[1], 5):
        h = net.cell(x[:, t : t + 5].sum(1), h)
        y[:, t : t + 5] = h[:, None] * x[:, t : t + 5, :1]
    return y


@pytest.mark.parametrize(
    ("run", "multiple"),
    [
        (half_as_many, 2),
        pytest.param(a_fifth_as_many, 5, marks=THOROUGH),
        pytest.param(pieces_of_one_length, 2, marks=RELATIVES),
        pytest.param(pieces_written, 5, marks=THOROUGH),
    ],
)
def test_loops_for_multiples_alone(
    run: Callable[..., Tensor], multiple: int, tmp_path: Path
) -> None:
    net = Net(run).eval()
    result = export(net, (X,), tmp_path / "m.onnx")
    assert result.contract.step_multiple == multiple

    model: Any = load(result.path)
    x = torch.randn(2, 9 * multiple, 4)
    with torch.no_grad():
        expected = net(x).numpy()
    np.testing.assert_allclose(model(x.numpy())[0], expected, rtol=0, atol=1e-5)
    if result.contract.streaming.ok:
        check_chunks(result.path)


def rotates(net: Net, x: Tensor) -> Tensor:
    """A wave that does not depend on the sequence, and goes on with it."""
    wave, waves = torch.tensor([[1.0, 0.0]]), []
    rotation = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    for _ in range(x.shape[1]):
        wave = wave @ rotation
        waves.append(wave)
    waves_of_all = torch.stack(waves, 1)
    y: Tensor = net.gru(x)[0]
    return y * waves_of_all[..., :1] + waves_of_all[..., 1:]


def grows_by_itself(net: Net, x: Tensor) -> Tensor:
    h, hs = net.cell.bias_hh[:4].expand(x.shape[0], 4), []
    for _ in range(x.shape[1]):
        h = net.cell(h, h)
        hs.append(h)
    return x + torch.stack(hs, 1)


def each_step_twice(net: Net, x: Tensor) -> Tensor:
    h, ys = net.zeros(x), []
    for t in range(2 * x.shape[1]):
        h = net.cell(x[:, t // 2], h)
        ys.append(h)
    return torch.stack(ys, 1)


@pytest.mark.parametrize(
    ("run", "states"),
    [
        (grows_by_itself, 1),
        pytest.param(rotates, 2, marks=RELATIVES),
        pytest.param(each_step_twice, 1, marks=RELATIVES),
    ],
)
def test_a_loop_that_takes_no_step_goes_on_in_the_next_call(
    run: Callable[..., Tensor], states: int, tmp_path: Path
) -> None:
    result = export(Net(run).eval(), (X,), tmp_path / "m.onnx")
    assert len(result.contract.states) == states
    assert result.contract.streaming.ok, result.contract.streaming.reason
    check_chunks(result.path)


def two_lags(net: Net, x: Tensor) -> Tensor:
    ys: list[Tensor] = []
    now = net.gru(x)[1][0]
    before = torch.zeros_like(now)
    for _ in range(x.shape[1]):
        before, now = now, torch.tanh(net.cell(now, before))
        ys.append(now)
    return torch.stack(ys, 1)


def greedy_tokens(net: Net, x: Tensor) -> Tensor:
    h, ys = net.gru(x)[1][0], []
    token = torch.zeros(x.shape[0], dtype=torch.int64)
    for _ in range(x.shape[1]):
        h = net.cell(net.embedding(token), h)
        logits = net.head(h)
        token = logits.argmax(-1)
        ys.append(logits)
    return torch.stack(ys, 1)


def layer_of_one_step(net: Net, x: Tensor) -> Tensor:
    """The decoder of PyTorch's tutorial on translation."""
    _, h = net.gru(x)
    token = torch.zeros(x.shape[0], 1, dtype=torch.int64)
    ys: list[Tensor] = []
    for _ in range(x.shape[1]):
        y, h = net.gru(torch.relu(net.embedding(token)), h)
        logits = net.head(y)
        token = logits.argmax(-1)
        ys.append(logits)
    return torch.cat(ys, 1)


def test_every_engine_makes_as_many_passes(tmp_path: Path) -> None:
    """Engines drop a sequence that nothing uses, and with it the number of passes."""
    result = export(Net(layer_of_one_step).eval(), (X,), tmp_path / "m.onnx")
    # tract refuses the file: it does not see how large the first tokens are.
    report = verify(result.path, engines=["ort-cpu", "openvino", "onnx-reference"])
    assert report.passed


def attends_to_the_encoder(net: Net, x: Tensor) -> Tensor:
    memory, h = net.gru(x)
    h, ys = h[0], []
    for _ in range(x.shape[1]):
        weights = torch.softmax(memory @ h[:, :, None], 1)
        h = net.cell((weights * memory).sum(1), h)
        ys.append(h)
    return torch.stack(ys, 1)


def two_loops(net: Net, x: Tensor) -> Tensor:
    h = net.zeros(x)
    ys: list[Tensor] = []
    for t in range(x.shape[1]):
        h = net.cell(x[:, t], h)
    code = h
    for _ in range(x.shape[1]):
        h = net.slow(code, h)
        ys.insert(0, h)
    return torch.stack(ys, 1)


def one_step_more(net: Net, x: Tensor) -> Tensor:
    code, ys = net.gru(x)[1][0], []
    h = torch.zeros_like(code)
    for _ in range(x.shape[1] + 1):
        h = net.cell(code, h)
        ys.append(h)
    return torch.stack(ys, 1)


def twice_as_many(net: Net, x: Tensor) -> Tensor:
    h, ys = net.gru(x)[1][0], []
    for _ in range(2 * x.shape[1]):
        h = net.cell(h, h)
        ys.append(h)
    return torch.stack(ys, 1)


def decays(net: Net, x: Tensor) -> Tensor:
    code = h = net.gru(x)[1][0]
    ys = []
    for t in range(x.shape[1]):
        h = net.cell(code * 0.9**t, h)
        ys.append(h)
    return torch.stack(ys, 1)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(two_lags, marks=THOROUGH),
        greedy_tokens,
        pytest.param(attends_to_the_encoder, marks=RELATIVES),
        two_loops,
        pytest.param(one_step_more, marks=THOROUGH),
        pytest.param(twice_as_many, marks=THOROUGH),
        pytest.param(decays, marks=THOROUGH),
    ],
)
def test_a_loop_that_takes_no_step_of_a_sequence(
    run: Callable[..., Tensor], tmp_path: Path
) -> None:
    net = Net(run).eval()
    result = export(net, (X,), tmp_path / "m.onnx")
    assert not result.contract.streaming.ok

    model: Any = load(result.path)
    for steps in (1, 2, 40):
        x = torch.randn(3, steps, 4)
        with torch.no_grad():
            expected = net(x).numpy()
        np.testing.assert_allclose(model(x.numpy())[0], expected, rtol=0, atol=1e-5)


def test_a_loop_of_a_fixed_number_of_passes_stays_written_out(tmp_path: Path) -> None:
    def refines(net: Net, x: Tensor) -> Tensor:
        y: Tensor = net.gru(x)[0]
        for _ in range(4):
            y = torch.tanh(y + net.gru(y)[0])
        return y

    result = export(Net(refines).eval(), (X,), tmp_path / "m.onnx")
    assert len(result.lifted) == 5
