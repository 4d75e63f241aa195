"""Networks that look back a number of steps: windows of former steps are carried for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import stateport
from stateport import InputError, State
from stateport_exporter import Spec, export
from stateport_exporter.network.example import Example
from stateport_exporter.network.window_search import WindowedNetwork, with_windows

X: Final = Spec("float32", "batch", "time", 8)


class Network(nn.Module):
    """Some layers, and a function that uses them."""

    def __init__(self, function: Callable[[Network, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.lstm = nn.LSTM(8, 8)
        self.heads = nn.MultiheadAttention(8, 2, batch_first=True)
        self.halves = nn.Conv1d(8, 8, 2, 2)
        self.depthwise = nn.Conv1d(8, 8, 3, groups=8)
        self.norm = nn.LayerNorm(8)
        self.cell = nn.GRUCell(8, 8)
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def distances(time: int) -> Tensor:
    """(time, time): how far the step of a column is behind that of a row."""
    steps = torch.arange(time)
    return steps[:, None] - steps[None, :]


def attended(scores: Tensor, values: Tensor) -> Tensor:
    return scores.softmax(-1) @ values


def window(net: Network, x: Tensor) -> Tensor:
    """Attention over the last 4 steps."""
    behind = distances(x.shape[1])
    scores = net.q(x) @ net.k(x).transpose(1, 2)
    scores = scores.masked_fill((behind < 0) | (behind > 3), float("-inf"))
    return attended(scores, net.v(x))


def window_with_a_mask_of_ones(net: Network, x: Tensor) -> Tensor:
    """The same by PyTorch's function, without an axis of heads."""
    seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril().triu(-3)
    return F.scaled_dot_product_attention(net.q(x), net.k(x), net.v(x), attn_mask=seen)


def window_with_a_large_negative_number(net: Network, x: Tensor) -> Tensor:
    behind = distances(x.shape[1])
    hidden = (behind < 0) | (behind > 3)
    scores = net.q(x) @ net.k(x).transpose(1, 2) + hidden * torch.finfo(torch.float32).min
    return attended(scores, net.v(x))


def relative_positions(net: Network, x: Tensor) -> Tensor:
    behind = distances(x.shape[1])
    scores = net.q(x) @ net.k(x).transpose(1, 2) + net.bias[behind.clamp(0, 3)]
    scores = scores.masked_fill((behind < 0) | (behind > 3), float("-inf"))
    return attended(scores, net.v(x))


def many_heads(net: Network, x: Tensor) -> Tensor:
    behind = distances(x.shape[1])
    hidden = (behind < 0) | (behind > 3)
    y: Tensor = net.heads(x, x, x, attn_mask=hidden, need_weights=False)[0]
    return y


def chunked(net: Network, x: Tensor) -> Tensor:
    """A chunk of 4 steps sees itself and the chunk before it."""
    chunk = torch.arange(x.shape[1]) // 4
    chunks_behind = chunk[:, None] - chunk[None, :]
    seen = (chunks_behind >= 0) & (chunks_behind <= 1)
    return F.scaled_dot_product_attention(net.q(x), net.k(x), net.v(x), attn_mask=seen)


def before_a_gru(net: Network, x: Tensor) -> Tensor:
    y: Tensor = net.gru(window(net, x))[0]
    return y


def behind_a_gru(net: Network, x: Tensor) -> Tensor:
    return window(net, net.gru(x)[0])


def two_before_an_lstm(net: Network, x: Tensor) -> Tensor:
    y = window(net, window(net, x))
    z: Tensor = net.lstm(y.transpose(0, 1))[0]
    return z.transpose(0, 1) + y


def of_half_the_steps(net: Network, x: Tensor) -> Tensor:
    return window(net, net.halves(x.transpose(1, 2)).transpose(1, 2))


def conformer(net: Network, x: Tensor) -> Tensor:
    x = x + net.o(F.silu(net.norm(x))) / 2
    x = x + many_heads(net, x)
    padded = F.pad(x.transpose(1, 2), (2, 0))
    x = x + F.silu(net.depthwise(padded)).transpose(1, 2)
    y: Tensor = x + net.o(F.silu(net.norm(x))) / 2
    return y


def loop(net: Network, x: Tensor) -> Tensor:
    """A GRU's cell over time."""
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = net.cell(x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def before_a_loop(net: Network, x: Tensor) -> Tensor:
    return loop(net, window(net, x))


def behind_a_loop(net: Network, x: Tensor) -> Tensor:
    return window(net, loop(net, x))


def behind_a_running_sum(net: Network, x: Tensor) -> Tensor:
    return window(net, torch.tanh(x.cumsum(1) / 8))


def difference_of_running_maxima(net: Network, x: Tensor) -> Tensor:
    """Nothing changes behind the first steps, so that only early chunks show what is lost."""
    y: Tensor = net.o(torch.diff(x.cummax(1).values, dim=1, prepend=x[:, :1]))
    return y


def difference(net: Network, x: Tensor) -> Tensor:
    y: Tensor = net.gru(F.pad(x[:, 1:] - x[:, :-1], (0, 0, 1, 0)))[0]
    return y


def difference_from_the_first_step(net: Network, x: Tensor) -> Tensor:
    y: Tensor = net.gru(torch.diff(x, dim=1, prepend=x[:, :1]))[0]
    return y


def rolled(net: Network, x: Tensor) -> Tensor:
    before = torch.roll(x, 1, 1)
    before = torch.cat([torch.zeros_like(x[:, :1]), before[:, 1:]], 1)
    y: Tensor = net.gru(x - before)[0]
    return y


def of_packed_sequences(net: Network, x: Tensor) -> Tensor:
    """As transformers does it: a sequence begins where positions begin again, which they never do.

    The numbers of sequences are a running sum, of which differences alone count.
    """
    positions = torch.arange(x.shape[1])[None].expand(x.shape[0], -1)
    begins = torch.diff(positions, dim=1, prepend=positions[:, :1] - 1) != 1
    numbers = begins.cumsum(1)
    behind = distances(x.shape[1])
    hidden = (behind < 0) | (behind > 3) | (numbers[:, :, None] != numbers[:, None, :])
    scores = (net.q(x) @ net.k(x).transpose(1, 2)).masked_fill(hidden, float("-inf"))
    return attended(scores, net.v(x))


def rotated_by_a_running_count(net: Network, x: Tensor) -> Tensor:
    """Rotary positions: the steps are numbered by a sum, and their distances alone count."""
    steps = torch.ones_like(x[:, :, :1]).cumsum(1)

    def rotated(u: Tensor) -> Tensor:
        a, b = u[..., :4], u[..., 4:]
        return torch.cat([a * steps.cos() - b * steps.sin(), a * steps.sin() + b * steps.cos()], -1)

    scores = rotated(net.q(x)) @ rotated(net.k(x)).transpose(1, 2)
    behind = distances(x.shape[1])
    return attended(scores.masked_fill((behind < 0) | (behind > 3), float("-inf")), net.v(x))


STREAM: Final = (
    window,
    window_with_a_mask_of_ones,
    window_with_a_large_negative_number,
    relative_positions,
    many_heads,
    chunked,
    before_a_gru,
    behind_a_gru,
    two_before_an_lstm,
    of_half_the_steps,
    conformer,
    before_a_loop,
    behind_a_loop,
    behind_a_running_sum,
    difference_of_running_maxima,
    difference,
    difference_from_the_first_step,
    rolled,
    of_packed_sequences,
    rotated_by_a_running_count,
)

#: What chunks have to be a multiple of, where it is not 1.
MULTIPLES: Final = {chunked: 4, of_half_the_steps: 2}
#: The steps that are looked back, where it is not 3.
SIZES: Final = {
    chunked: 4,
    two_before_an_lstm: 6,
    of_half_the_steps: 6,
    conformer: 5,
    difference_of_running_maxima: 1,
    difference: 1,
    difference_from_the_first_step: 1,
    rolled: 1,
}


def attention_to_all(net: Network, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(net.q(x), net.k(x), net.v(x), is_causal=True)


def attention_to_one_step_more(net: Network, x: Tensor) -> Tensor:
    """It looks one step ahead."""
    behind = distances(x.shape[1])
    scores = net.q(x) @ net.k(x).transpose(1, 2)
    scores = scores.masked_fill((behind < -1) | (behind > 3), float("-inf"))
    return attended(scores, net.v(x))


def fading(net: Network, x: Tensor) -> Tensor:
    """A moving average: after 200 steps nothing is left of a step but what is rounded away."""
    behind = distances(x.shape[1])
    weights = torch.where(behind >= 0, torch.pow(0.9, behind), 0.0)
    return weights @ x


def scan_in_rounds(net: Network, x: Tensor, kept: Tensor | None = None) -> Tensor:
    """A recurrence in log2(time) rounds; its gates close, mostly."""
    kept = torch.sigmoid(net.q(x)) if kept is None else kept
    value: Tensor = net.k(x)
    shift = 1
    while shift < x.shape[1]:
        before = F.pad(value[:, :-shift], (0, 0, shift, 0))
        kept_before = F.pad(kept[:, :-shift], (0, 0, shift, 0), value=1.0)
        value, kept, shift = kept * before + value, kept * kept_before, 2 * shift
    return value


def scan_that_forgets(net: Network, x: Tensor) -> Tensor:
    """The same with gates that close for good with most numbers, but not with all."""
    return scan_in_rounds(net, x, F.relu(net.q(x)).clamp(max=1))


def table_of_positions(net: Network, x: Tensor) -> Tensor:
    """Windows, but at positions from the beginning."""
    return window(net, x + torch.arange(x.shape[1])[:, None] * net.bias[:1])


def reversed_if_short(net: Network, x: Tensor) -> Tensor:
    """With windows, no sequence is short."""
    return difference(net, x.flip(1) if x.shape[1] < 6 else x)


DO_NOT: Final = (
    reversed_if_short,
    attention_to_all,
    attention_to_one_step_more,
    fading,
    scan_in_rounds,
    scan_that_forgets,
    table_of_positions,
)


def found(function: Callable[..., Tensor]) -> WindowedNetwork | None:
    net = Network(function).eval()
    return with_windows(net, "forward", Example(net.forward, X))


def name(function: Callable[..., Tensor]) -> str:
    return function.__name__


#: A Python loop is rolled up before windows are put in front of its steps.
NO_LOOPS: Final = [f for f in STREAM if f not in (before_a_loop, behind_a_loop)]


@pytest.mark.parametrize("function", NO_LOOPS, ids=name)
def test_the_smallest_window_is_found(function: Callable[..., Tensor]) -> None:
    windowed = found(function)
    assert windowed is not None
    assert windowed.network.size == SIZES.get(function, 3)
    assert windowed.multiple == MULTIPLES.get(function, 1)


@pytest.mark.parametrize("function", DO_NOT, ids=name)
def test_no_window_for_what_looks_ahead_or_back_without_an_end(
    function: Callable[..., Tensor],
) -> None:
    assert found(function) is None


def test_only_what_is_looked_back_at_has_a_window() -> None:
    windowed = found(before_a_gru)
    assert windowed is not None
    assert [*windowed.declared] == ["window_x", "window_steps"]

    windowed = found(behind_a_gru)
    assert windowed is not None
    assert [*windowed.declared] == ["window_x", "window_layer", "window_steps"]


@pytest.mark.parametrize(
    "function",
    [
        rotated_by_a_running_count,
        pytest.param(of_packed_sequences, marks=pytest.mark.thorough),
    ],
    ids=name,
)
def test_sums_of_which_differences_alone_count_are_no_states(
    function: Callable[..., Tensor], tmp_path: Path
) -> None:
    result = export(Network(function).eval(), X, tmp_path / "m.onnx")
    assert [state.input for state in result.contract.states] == ["window_x", "window_steps"]


@pytest.mark.patterns
def test_a_sum_that_counts_by_itself_is_a_state(tmp_path: Path) -> None:
    def divided_by_the_count(net: Network, x: Tensor) -> Tensor:
        return window(net, x) / torch.ones_like(x).cumsum(1)

    result = export(Network(divided_by_the_count).eval(), X, tmp_path / "m.onnx")
    assert result.contract.streaming.ok
    assert len(result.contract.states) == 3


def check_stream(function: Callable[..., Tensor], path: Path) -> None:
    """Chunks of every length, and pools whose rows began at different times, give the whole."""
    net = Network(function).eval()
    export(net, X, path)
    model = stateport.load(path)
    multiple = model.contract.streaming.chunk_multiple
    assert model.contract.streaming.ok, model.contract.streaming.reason
    assert multiple == MULTIPLES.get(function, 1)

    x = torch.randn(3, 96 * multiple, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = net(x).numpy()

    for length in (1, 2, 3, 7, 64):
        stream = model.stream()
        parts = [
            stream(part)
            for part in np.split(x.numpy(), range(0, x.shape[1], length * multiple)[1:], 1)
        ]
        close(np.concatenate(parts, 1), whole)

    rows, begun = whole.shape[1] * multiple // x.shape[1], [0, 0, 0]
    pool = model.pool(3)
    streams = pool.open(3)
    random = np.random.default_rng(0)
    while min(begun) < 20:
        chosen = [row for row in range(3) if random.random() < 0.6 and begun[row] < 20]
        if not chosen:
            continue
        chunks = [x[row, begun[row] * multiple : (begun[row] + 1) * multiple] for row in chosen]
        answers = pool.step(streams[chosen], torch.stack(chunks).numpy())
        for row, answer in zip(chosen, answers, strict=True):
            close(answer, whole[row, begun[row] * rows : (begun[row] + 1) * rows])
            begun[row] += 1


def close(a: NDArray[Any], b: NDArray[Any]) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("function", [before_a_gru, chunked], ids=name)
def test_chunks_give_the_whole(function: Callable[..., Tensor], tmp_path: Path) -> None:
    check_stream(function, tmp_path / "m.onnx")


@pytest.mark.soak
@pytest.mark.parametrize("function", STREAM, ids=name)
def test_chunks_give_the_whole_for_all(function: Callable[..., Tensor], tmp_path: Path) -> None:
    check_stream(function, tmp_path / "m.onnx")


class Filled(nn.Module):
    """Half as many steps, of an odd number after one more; attention to the last steps of them."""

    def __init__(self, *, is_filled: bool) -> None:
        super().__init__()
        self.halves = nn.Conv1d(8, 8, 4, 2)
        self.is_filled = is_filled

    def forward(self, x: Tensor) -> Tensor:
        more = x.shape[1] % 2 if self.is_filled else 0
        y = self.halves(F.pad(x.transpose(1, 2), (2, more))).transpose(1, 2)
        behind = distances(y.shape[1])
        scores = (y @ y.transpose(1, 2)).masked_fill((behind < 0) | (behind > 2), float("-inf"))
        return attended(scores, y)


@pytest.mark.parametrize("is_filled", [True, pytest.param(False, marks=pytest.mark.patterns)])
def test_a_length_between_multiples_is_right_or_refused(is_filled: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Filled(is_filled=is_filled).eval()
    model = stateport.load(export(net, X, tmp_path / "m.onnx").path)
    assert model.contract.streaming.chunk_multiple == 2
    assert "window_x" in {state.input for state in model.contract.states}

    x = torch.randn(2, 7, 8)
    if is_filled:  # the file's windows do not know the step that forward adds
        assert dict(model.contract.multiples) == {"time": 2}
        with pytest.raises(InputError, match="takes multiples of 2 alone"):
            model(x.numpy())
        return
    y, _ = model(x.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(y, net(x).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.patterns
def test_tokens_have_windows_of_integers(tmp_path: Path) -> None:
    class Tokens(Network):
        def __init__(self) -> None:
            super().__init__(window)
            self.embedding = nn.Embedding(11, 8)

        def forward(self, x: Tensor) -> Tensor:
            return window(self, self.embedding(x))

    net, path = Tokens().eval(), tmp_path / "m.onnx"
    export(net, Spec("int64", "batch", "time", high=10), path)
    model = stateport.load(path)
    states = {state.input: (state.dtype, state.shape) for state in model.contract.states}
    assert states["window_x"] == ("int64", ("batch", 3))
    assert states["window_steps"] == ("int64", ("batch",))

    x = np.random.default_rng(0).integers(0, 11, (2, 20))
    with torch.no_grad():
        whole = net(torch.from_numpy(x)).numpy()
    stream = model.stream()
    close(np.concatenate([stream(x[:, i : i + 5]) for i in range(0, 20, 5)], 1), whole)


@pytest.mark.patterns
def test_a_state_goes_on_after_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export(Network(before_a_gru).eval(), X, path)
    model = stateport.load(path)
    x = np.random.default_rng(0).standard_normal((2, 9, 8), np.float32)

    stream = model.stream()
    stream(x[:, :2])  # the window is not full yet
    stream.state.save(tmp_path / "saved.state")
    expected = stream(x[:, 2:])

    other = model.stream()
    other.restore(State.load(tmp_path / "saved.state"))
    np.testing.assert_array_equal(other(x[:, 2:]), expected)
