"""States that a network hides become inputs and outputs, or the network is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport.parity.engine_report import EngineReport
from stateport_exporter import ExportError, Spec, export
from tests.chunks import check_calls_go_on

Judge = Callable[[Path], EngineReport]
Forward = Callable[["Hiding", Tensor], Any]
X = Spec("float32", "batch", "time", 5)
STATE = Spec("float32", 1, "batch", 10)
LSTM = [("h0", "hn"), ("c0", "cn")]


class Hiding(nn.Module):
    """A network with layers of every kind, around a forward of the test's own."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.lstm = nn.LSTM(5, 10, num_layers=2, batch_first=True)
            self.gru = nn.GRU(10, 8, batch_first=True)
            self.major = nn.RNN(5, 4)
            self.head = nn.Linear(10, 3)
            self.first = nn.Parameter(torch.randn(2, 1, 10))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def ignored(net: Hiding, x: Tensor) -> Any:
    y, _ = net.lstm(x)
    return net.head(y)


def returned(net: Hiding, x: Tensor) -> Any:
    y, state = net.lstm(x)
    return net.head(y), state


def zeros_inside(net: Hiding, x: Tensor) -> Any:
    h0 = torch.zeros(2, x.size(0), 10)
    return net.head(net.lstm(x, (h0, torch.zeros_like(h0)))[0])


def ones_inside(net: Hiding, x: Tensor) -> Any:
    h0 = torch.ones(2, x.shape[0], 10)
    return net.head(net.lstm(x, (h0, 0.5 * h0))[0])


def learned(net: Hiding, x: Tensor) -> Any:
    h0 = net.first.expand(-1, x.size(0), -1).contiguous()
    return net.head(net.lstm(x, (h0, torch.tanh(h0)))[0])


def last_hidden(net: Hiding, x: Tensor) -> Any:
    _, (hn, _) = net.lstm(x)
    return net.head(hn[-1])


def flattened(net: Hiding, x: Tensor) -> Any:
    y, _ = net.lstm(x)
    return net.head(y.reshape(-1, 10)).view(x.size(0), x.size(1), 3)


def stacked(net: Hiding, x: Tensor) -> Any:
    return net.gru(net.lstm(x)[0])[0]


def shared(net: Hiding, x: Tensor) -> Any:
    """One layer called twice has two states."""
    return net.major(x.transpose(0, 1))[0] + net.major(-x.transpose(0, 1))[0]


CASES: dict[str, tuple[Forward, list[tuple[str, str]], str]] = {
    "ignored": (ignored, LSTM, "zeros"),
    "returned": (returned, LSTM, "zeros"),
    "zeros inside": (zeros_inside, LSTM, "zeros"),
    "ones inside": (ones_inside, LSTM, "file"),
    "learned": (learned, LSTM, "file"),
    "last hidden": (last_hidden, LSTM, "zeros"),
    "flattened": (flattened, LSTM, "zeros"),
    "two layers": (
        stacked,
        [("lstm_h0", "lstm_hn"), ("lstm_c0", "lstm_cn"), ("gru_h0", "gru_hn")],
        "zeros",
    ),
    "shared": (shared, [("major_h0", "major_hn"), ("major_2_h0", "major_2_hn")], "zeros"),
}


@pytest.mark.parametrize(("function", "states", "initial"), CASES.values(), ids=CASES)
def test_a_hidden_state_is_lifted(
    function: Forward,
    states: list[tuple[str, str]],
    initial: str,
    tmp_path: Path,
    judged: Judge,
) -> None:
    net = Hiding(function).eval()
    result = export(net, (X,), tmp_path / "m.onnx")
    assert [(s.input, s.output) for s in result.contract.states] == states
    assert {s.initial for s in result.contract.states} == {initial}
    assert result.lifted == tuple(name for name, _ in states)
    assert result.contract.streaming.ok
    assert judged(result.path).passed
    # From the state that a sequence starts from, the file says what the network itself says.
    x = np.random.default_rng(0).standard_normal((3, 11, 5)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(x))
    y, _ = stateport.load(result.path)(x)
    np.testing.assert_allclose(
        y, (expected[0] if isinstance(expected, tuple) else expected), atol=1e-6
    )


def test_a_stream_starts_from_the_values_in_the_file(tmp_path: Path) -> None:
    net = Hiding(learned).eval()
    stream = stateport.load(export(net, (X,), tmp_path / "m.onnx").path).stream()
    x = np.random.default_rng(0).standard_normal((2, 9, 5)).astype(np.float32)
    parts = [stream(x[:, :4]), stream(x[:, 4:5]), stream(x[:, 5:])]
    with torch.no_grad():
        expected = net(torch.from_numpy(x))
    np.testing.assert_allclose(np.concatenate(parts, 1), expected, atol=1e-6)


class Dropping(nn.Module):
    """Takes its state, but returns none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 10, batch_first=True)

    def forward(self, x: Tensor, h0: Tensor, c0: Tensor) -> Tensor:
        y: Tensor = self.lstm(x, (h0, c0))[0]
        return y


class Unused(Dropping):
    def forward(self, x: Tensor, h0: Tensor, c0: Tensor) -> Tensor:
        y: Tensor = self.lstm(x)[0]
        return y


def test_an_argument_without_a_next_state_is_no_state(tmp_path: Path, judged: Judge) -> None:
    """It may be a context that the network starts from; only the author could say."""
    result = export(Dropping(), (X, STATE, STATE), tmp_path / "m.onnx")
    assert [s.name for s in result.contract.inputs] == ["x", "h0", "c0"]
    assert result.contract.states == ()
    assert "its last state is not returned" in str(result.contract.streaming.reason)
    assert judged(result.path).passed


class TwoLayers(nn.Module):
    """The first layer's last state is dropped, and the second's is computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.GRU(5, 10, batch_first=True)
        self.second = nn.GRU(10, 10, batch_first=True)

    def forward(self, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        y, following = self.second(self.first(x, a)[0], b)
        return y, following


def test_a_layers_last_state_is_not_the_next_one_of_the_layer_before(
    tmp_path: Path, judged: Judge
) -> None:
    """Random networks found this."""
    result = export(TwoLayers(), (X, STATE, STATE), tmp_path / "m.onnx")
    assert [s.input for s in result.contract.states] == ["b"]
    assert [s.name for s in result.contract.inputs] == ["x", "a"]
    assert judged(result.path).passed


def test_arguments_that_do_nothing_keep_their_names(tmp_path: Path, judged: Judge) -> None:
    result = export(Unused(), (X, STATE, STATE), tmp_path / "m.onnx")
    assert [s.name for s in result.contract.inputs] == ["x", "h0", "c0"]
    assert result.lifted == ("state_h0", "state_c0")
    assert judged(result.path).passed


def test_without_lifting_the_graph_stays_as_written(tmp_path: Path) -> None:
    result = export(Hiding(ignored), (X,), tmp_path / "m.onnx", lift=False)
    assert result.contract.states == ()
    assert result.lifted == ()
    with pytest.raises(stateport.StreamingError, match="lstm starts every call from a state"):
        stateport.load(result.path).stream()


def test_a_state_made_from_the_sequence_is_no_state(tmp_path: Path, judged: Judge) -> None:
    """A decoder that starts where the encoder ended needs the whole sequence."""

    def decoder(net: Hiding, x: Tensor) -> Any:
        _, (h, c) = net.lstm(x)
        return net.lstm(x.flip(1), (h, c))[0]

    result = export(Hiding(decoder), (X,), tmp_path / "m.onnx")
    assert len(result.contract.states) == 2
    assert not result.contract.streaming.ok
    assert judged(result.path).passed


def masked(lstm: nn.LSTM, x: Tensor, h0: Tensor, c0: Tensor, done: Tensor) -> Any:
    keep = (1.0 - done)[None, :, None]
    y, (hn, cn) = lstm(x, (h0 * keep, c0 * keep))
    return y, hn, cn


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 10, batch_first=True)

    def forward(self, x: Tensor, h0: Tensor, c0: Tensor, done: Tensor) -> Any:
        return masked(self.lstm, x, h0, c0, done)


def test_a_mask_that_clears_the_state_stays_an_input(tmp_path: Path, judged: Judge) -> None:
    example = (X, STATE, STATE, Spec("float32", "batch"))
    result = export(Masked(), example, tmp_path / "m.onnx")
    assert [s.name for s in result.contract.inputs] == ["x", "done"]
    assert [(s.input, s.output) for s in result.contract.states] == LSTM
    assert judged(result.path).passed


def test_a_layer_that_runs_over_the_batch_is_refused(tmp_path: Path) -> None:
    """batch_first forgotten: the layer takes the batch for time. Nothing could be carried."""

    def wrong(net: Hiding, x: Tensor) -> Any:
        return net.major(x)[0]

    with pytest.raises(ExportError, match="'major' runs over the axis 'batch'"):
        export(Hiding(wrong), (X,), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


class Keeping(nn.Module):
    """Keeps its state in an attribute that starts as None, and a counter that does nothing."""

    hidden: Any = None
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.lstm = nn.LSTM(5, 10, batch_first=True)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.hidden is None:
            self.hidden = (torch.zeros(1, x.size(0), 10), torch.zeros(1, x.size(0), 10))
        y, (h, c) = self.lstm(x, self.hidden)
        self.hidden = (h.detach(), c.detach())
        self.count += 1
        return y  # type: ignore[no-any-return]

    def other(self, x: Tensor) -> Tensor:
        return -self.forward(x)


@pytest.mark.parametrize("method", ["forward", "other"])
def test_a_state_in_an_attribute_is_lifted(method: str, tmp_path: Path, judged: Judge) -> None:
    net = Keeping().eval()
    result = export(net, (X,), tmp_path / "m.onnx", method=method)
    assert net.hidden is None
    assert net.count.item() == 0
    assert result.lifted == ("h0", "c0")
    assert judged(result.path).passed
    stream = stateport.load(result.path).stream()
    x = np.random.default_rng(0).standard_normal((2, 6, 5)).astype(np.float32)
    with torch.no_grad():  # the network itself carries its state from call to call
        for part in (x[:, :2], x[:, 2:3], x[:, 3:]):
            expected = getattr(net, method)(torch.from_numpy(part))
            np.testing.assert_allclose(stream(part), expected, atol=1e-6)


class Delayed(nn.Module):
    """Remembers the last input, which is no state of a recurrent layer."""

    previous: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 10, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        last = torch.zeros_like(x[:, :1]) if self.previous is None else self.previous
        self.previous = x[:, -1:]
        return self.gru(x + last)[0]


class Averaged(Delayed):
    """Keeps what belongs to no row of the batch."""

    def forward(self, x: Tensor) -> Any:
        last = torch.zeros_like(x[:1, :1]) if self.previous is None else self.previous
        self.previous = x[:, -1:].mean(0, keepdim=True)
        return self.gru(x + last)[0]


class Noisy(Delayed):
    def forward(self, x: Tensor) -> Any:
        return self.gru(x + torch.rand_like(x))[0]


@pytest.mark.parametrize(
    ("network", "message"),
    [(Averaged, r"remembers something .*\(previous\)"), (Noisy, "draws random numbers")],
)
def test_other_memories_and_chance_are_refused(
    network: type[nn.Module], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export(network(), (X,), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


class Gru(nn.Module):
    """A GRU with a forward of the test's own, and an attribute and a buffer for states."""

    kept: Any = None
    buffer: Tensor

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.gru = nn.GRU(5, 10, batch_first=True)
            self.other = nn.GRU(5, 10, batch_first=True)
            self.start = nn.Parameter(torch.randn(1, 1, 10))
        self.register_buffer("buffer", torch.zeros(1, 1, 10))
        self.function = function

    def forward(self, x: Tensor, *states: Tensor) -> Any:
        return self.function(self, x, *states)


def scaled(net: Gru, x: Tensor, h: Tensor) -> Any:
    y, h = net.gru(x, h)
    return y, h * 0.5


def normalised(net: Gru, x: Tensor, h: Tensor) -> Any:
    y, h = net.gru(x, h)
    return y, torch.tanh(h + 1)


def through_two(net: Gru, x: Tensor, h: Tensor) -> Any:
    y, h = net.gru(x, h)
    y2, h = net.other(x, h)
    return y + y2, h


def from_the_output(net: Gru, x: Tensor, h: Tensor) -> Any:
    y, _ = net.gru(x, h)
    return y, y[:, -1][None]


@pytest.mark.parametrize("function", [scaled, normalised, through_two, from_the_output])
def test_the_next_state_is_the_one_that_forward_returns(
    function: Callable[..., Any], tmp_path: Path, judged: Judge
) -> None:
    net = Gru(function).eval()
    result = export(net, (X, STATE), tmp_path / "m.onnx")
    assert len(result.contract.outputs) == 1
    assert len(result.contract.states) >= 1
    assert judged(result.path).passed
    model = stateport.load(result.path)
    h, state = torch.zeros(1, 2, 10), None
    for number in range(3):  # as the author carries it
        x = np.random.default_rng(number).standard_normal((2, 4, 5)).astype(np.float32)
        with torch.no_grad():
            y, h = net(torch.from_numpy(x), h)
        mine, state = model(x, state)
        np.testing.assert_allclose(mine, y, atol=1e-6)
        np.testing.assert_allclose(state["states_0"], h, atol=1e-6)


def test_equal_calls_are_not_confused(tmp_path: Path, judged: Judge) -> None:
    """PyTorch's exporter would merge the first two calls, and the numbers would shift."""

    def twice(net: Gru, x: Tensor, h: Tensor) -> Any:
        a, b = net.gru(x)[0], net.gru(x)[0]
        y, h = net.other(x, h)
        return a + 2 * b + y, h

    net = Gru(twice).eval()
    result = export(net, (X, STATE), tmp_path / "m.onnx")
    assert result.lifted == ("gru_h0", "gru_2_h0")
    assert judged(result.path).passed


def in_a_buffer(net: Gru, x: Tensor) -> Any:
    y, h = net.gru(x, net.buffer)
    net.buffer.copy_(h.detach())
    return y


def test_a_buffer_that_is_updated_in_place(tmp_path: Path) -> None:
    net = Gru(in_a_buffer).eval()
    result = export(net, Spec("float32", 1, "time", 5), tmp_path / "m.onnx")
    assert not net.buffer.any()
    assert [s.initial for s in result.contract.states] == ["zeros"]
    stream = stateport.load(result.path).stream()
    for number in range(3):
        x = np.random.default_rng(number).standard_normal((1, 4, 5)).astype(np.float32)
        with torch.no_grad():
            expected = net(torch.from_numpy(x))
        np.testing.assert_allclose(stream(x), expected, atol=1e-6)


def halved(net: Gru, x: Tensor) -> Any:
    y, h = net.gru(x, net.kept)
    net.kept = (h * 0.5).detach()
    return y


def test_a_state_that_changes_between_calls_is_carried_and_not_streamed(tmp_path: Path) -> None:
    net = Gru(halved).eval()
    export(net, (X,), tmp_path / "m.onnx")
    model = stateport.load(tmp_path / "m.onnx")
    assert not model.contract.streaming.ok

    state = None
    for time in (3, 4, 2, 1):
        x = torch.randn(2, time, 5, generator=torch.Generator().manual_seed(time))
        with torch.no_grad():
            expected = net(x)
        y, state = model(x.numpy(), state)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)


def crossed_layers(net: Gru, x: Tensor) -> Any:
    y, _ = net.gru(x, net.kept)
    y2, net.kept = net.other(x)
    return y + y2


def by_length(net: Gru, x: Tensor) -> Any:
    return net.gru(x, torch.ones(1, x.size(0), 10) / x.size(1))[0]


def by_chance(net: Gru, x: Tensor) -> Any:
    return net.gru(x, torch.randn(1, 1, 10).expand(1, x.size(0), 10).contiguous())[0]


def a_number(net: Gru, x: Tensor) -> Any:
    return net.gru(x)[0], x.shape[1]


def complex_numbers(net: Gru, x: Tensor) -> Any:
    y = net.gru(x)[0]
    return torch.complex(y, y)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (complex_numbers, "forward returns complex numbers: .* torch.view_as_real"),
        (by_length, "not the same in every call"),
        (by_chance, "not the same in every call"),
        (a_number, "something besides tensors"),
    ],
)
def test_what_would_come_out_wrong_is_refused(
    function: Callable[..., Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export(Gru(function), (X,), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_starts_from_the_last_state_of_another(tmp_path: Path) -> None:
    net = Gru(crossed_layers).eval()
    result = export(net, (X,), tmp_path / "m.onnx")
    assert [state.input for state in result.contract.states] == ["kept"]
    assert not result.contract.streaming.ok  # the other layer starts anew in every call

    check_calls_go_on(result.path, net)


def test_a_sequence_axis_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Call the axis that it runs over 'time'"):
        export(Hiding(ignored), (Spec("float32", "batch", "seq", 5),), tmp_path / "m.onnx")


def test_results_with_names_stay_results(tmp_path: Path) -> None:
    def embedding(net: Gru, x: Tensor) -> Any:
        y, h = net.gru(x)
        return {"logits": y, "embedding": h}

    contract = export(Gru(embedding), (X,), tmp_path / "m.onnx").contract
    assert [s.name for s in contract.outputs] == ["logits", "embedding"]
    assert [(s.input, s.output) for s in contract.states] == [("h0", "hn")]


class Optional(Gru):
    """A state that may be left out; then it starts from a learned value."""

    def __init__(self, start: bool) -> None:
        super().__init__(scaled)
        self.learned = start

    def forward(self, x: Tensor, h: Tensor | None = None) -> Any:  # type: ignore[override]
        if h is None and self.learned:
            h = self.start.expand(1, x.size(0), 10).contiguous()
        return self.gru(x, h)


@pytest.mark.parametrize("learned", [False, True])
def test_a_state_that_may_be_left_out(learned: bool, tmp_path: Path, judged: Judge) -> None:
    net = Optional(learned).eval()
    x = np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32)
    if learned:
        with pytest.raises(ExportError, match="Leave 'h' out of the example"):
            export(net, (X, STATE), tmp_path / "m.onnx")
        result = export(net, (X,), tmp_path / "m.onnx")
    else:
        result = export(net, (X, STATE), tmp_path / "m.onnx")
    assert judged(result.path).passed
    with torch.no_grad():
        expected, _ = net(torch.from_numpy(x))
    np.testing.assert_allclose(stateport.load(result.path)(x)[0], expected, atol=1e-6)


def test_a_state_that_cannot_be_left_out_alone(tmp_path: Path, judged: Judge) -> None:
    class Together(nn.Module):
        """Takes h and c, or h alone for a network with a GRU, as policies of robots do."""

        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(5, 10, batch_first=True)

        def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> Any:
            assert c is not None
            y, state = self.lstm(x, (h, c))
            return y, *state

    result = export(Together(), (X, STATE, STATE), tmp_path / "m.onnx")
    assert [state.input for state in result.contract.states] == ["h", "c"]
    assert judged(result.path).passed


def test_a_network_with_a_shortest_length(tmp_path: Path, judged: Judge) -> None:
    class Convolved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(5, 6, 3)
            self.gru = nn.GRU(6, 4, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.gru(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]

    result = export(Convolved(), (X,), tmp_path / "m.onnx")
    assert "windows that overlap two chunks" in str(result.contract.streaming.reason)
    assert judged(result.path).passed
