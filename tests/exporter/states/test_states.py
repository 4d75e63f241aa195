"""Networks that carry more than recurrent layers do: all of it is a state, or is asked about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport_exporter import ExportError, ExportResult, PossibleState, Spec, export
from tests.exporter.patterns.pattern import network, seeded


def row(*shape: int | str) -> Spec:
    return Spec("float32", "batch", *shape)


def sequence(features: int) -> Spec:
    return Spec("float32", "batch", "time", features)


H = Spec("float32", 1, "batch", 6)


def window(net: Any, x: Tensor, past_k: Tensor, past_v: Tensor) -> Any:
    k = torch.cat([past_k, net.k(x)], 1)[:, 1:]
    v = torch.cat([past_v, net.v(x)], 1)[:, 1:]
    weights = torch.softmax(net.q(x) @ k.transpose(1, 2) / 6**0.5, -1)
    return weights @ v, k, v


def windowed() -> nn.Module:
    return network(window, q=nn.Linear(6, 6), k=nn.Linear(6, 6), v=nn.Linear(6, 6))


WINDOWS = (row(1, 6), row(8, 6), row(8, 6))


def convolution_and_cell(net: Any, x: Tensor, h: Tensor, inputs: Tensor) -> Any:
    seen = torch.cat([inputs, x[:, :, None]], 2)
    h = net.cell(net.conv(seen)[:, :, 0], h)
    return net.head(h), h, seen[:, :, 1:]


def decoder(
    net: Any, frame: Tensor, h: Tensor, c: Tensor, weights: Tensor, total: Tensor, memory: Tensor
) -> Any:
    h, c = net.rnn(frame, (h, c))
    weights = torch.softmax((net.query(h)[:, None] * memory).sum(2) - total - weights, 1)
    total = total + weights
    return net.out(h), h, c, weights, total


def moving_statistics(_: Any, x: Tensor, mean: Tensor, variance: Tensor, count: Tensor) -> Any:
    count = count + 1
    off = x - mean
    mean = mean + off / count
    variance = variance + off * (x - mean)
    return off / torch.sqrt(variance / count + 1), (mean, variance, count)


def selective(net: Any, x: Tensor, conv_state: Tensor, ssm_state: Tensor) -> Any:
    conv_state = torch.cat([conv_state[:, :, 1:], x[:, :, None]], 2)
    z = torch.tanh((conv_state * net.kernel).sum(2))
    ssm_state = ssm_state * 0.9 + z[:, :, None]
    return {"y": ssm_state.sum(2), "conv_state": conv_state, "ssm_state": ssm_state}


def cached(net: Any, x: Tensor, h: Tensor, cache: Tensor) -> Any:
    seen = torch.cat([cache, x.transpose(1, 2)], 2)
    y, h = net.gru(net.conv(seen).transpose(1, 2), h)
    return y, h, seen[:, :, -3:]


def with_cache() -> nn.Module:
    return network(cached, conv=nn.Conv1d(5, 6, 4), gru=nn.GRU(6, 6, batch_first=True))


def offset(_: Any, x: Tensor, beginning: Tensor) -> Any:
    y = x.cumsum(1) + beginning[:, None]
    return y * 2, y[:, -1]


def conditioned(net: Any, x: Tensor, h: Tensor, c: Tensor) -> Any:
    y, h = net.gru(x + c[:, None], h)
    return y, h, c * 2


def zeros_for_a_cache(batch: int, time: int) -> Any:
    return torch.randn(batch, time, 5), torch.zeros(1, batch, 6), torch.zeros(batch, 5, 3)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., ExportResult]:
    def make(net: Callable[[], nn.Module], example: Any, **options: Any) -> ExportResult:
        return export(seeded(net), example, tmp_path / "m.onnx", **options)

    return make


def taken(result: ExportResult) -> list[str]:
    return [state.input for state in result.contract.states]


@pytest.mark.patterns
def test_both_halves_of_a_window_are_states(made: Callable[..., ExportResult]) -> None:
    result = made(windowed, WINDOWS)
    assert taken(result) == ["past_k", "past_v"]
    assert result.possible_states == ()
    net, stream = seeded(windowed), stateport.load(result.path).stream()
    xs = np.random.default_rng(0).standard_normal((20, 2, 1, 6), np.float32)
    k = v = torch.zeros(2, 8, 6)
    for x in xs:
        with torch.no_grad():
            want, k, v = net(torch.from_numpy(x), k, v)
        np.testing.assert_allclose(stream(x), want.numpy(), rtol=0, atol=1e-5)


STEPS: dict[str, tuple[Callable[[], nn.Module], Any, list[str]]] = {
    "convolution and cell": (
        lambda: network(
            convolution_and_cell,
            conv=nn.Conv1d(5, 6, 4), cell=nn.GRUCell(6, 7), head=nn.Linear(7, 2),
        ),
        (row(5), row(7), row(5, 3)),
        ["h", "inputs"],
    ),
    "decoder": (
        lambda: network(decoder, rnn=nn.LSTMCell(3, 6), query=nn.Linear(6, 5), out=nn.Linear(6, 3)),
        (row(3), row(6), row(6), row("text"), row("text"), row("text", 5)),
        ["h", "c", "weights", "total"],
    ),
    "moving statistics": (
        lambda: network(moving_statistics),
        (row(5), row(5), row(5), row(1)),
        ["mean", "variance", "count"],
    ),
    "state space": (
        lambda: network(selective, kernel=nn.Parameter(torch.randn(5, 4))),
        (row(5), row(5, 4), row(5, 8)),
        ["conv_state", "ssm_state"],
    ),
}  # fmt: skip


@pytest.mark.patterns
@pytest.mark.parametrize("name", STEPS)
def test_all_that_a_step_carries_is_a_state(name: str, made: Callable[..., ExportResult]) -> None:
    net, example, states = STEPS[name]
    result = made(net, example)
    assert taken(result) == states
    assert result.contract.streaming.ok
    assert result.possible_states == ()


@pytest.mark.patterns
@pytest.mark.parametrize("example", [(sequence(5), H, row(5, 3)), zeros_for_a_cache])
def test_a_cache_of_its_own_beside_a_layer_is_a_state(
    example: Any, made: Callable[..., ExportResult]
) -> None:
    result = made(with_cache, example)
    assert taken(result) == ["h", "cache"]
    assert result.contract.streaming.ok


@pytest.mark.patterns
def test_what_nothing_names_is_a_state_if_chunks_need_it(made: Callable[..., ExportResult]) -> None:
    result = made(lambda: network(offset), (sequence(5), row(5)))
    assert taken(result) == ["beginning"]
    assert result.contract.streaming.ok


@pytest.mark.patterns
def test_what_has_a_state_s_name_is_none_if_chunks_are_right_without(
    made: Callable[..., ExportResult],
) -> None:
    net = lambda: network(conditioned, gru=nn.GRU(5, 6, batch_first=True))  # noqa: E731
    result = made(net, (sequence(5), H, row(5)))
    assert taken(result) == ["h"]
    assert result.contract.streaming.ok
    assert result.possible_states == (PossibleState("c", "3", "float32", ("batch", 5)),)


@pytest.mark.patterns
def test_a_cache_that_is_said_to_be_none_keeps_the_network_from_streaming(
    made: Callable[..., ExportResult],
) -> None:
    result = made(with_cache, (sequence(5), H, row(5, 3)), states={"cache": None})
    assert taken(result) == ["h"]
    assert not result.contract.streaming.ok
    assert "fed in chunks" in str(result.contract.streaming.reason)
    assert result.possible_states == ()


def echo(net: Any, mic: Tensor, far: Tensor, h: Tensor) -> Any:
    h = net.cell(mic - far, h)
    return mic + net.head(h), far * 2, h


def cancelling() -> nn.Module:
    return network(echo, cell=nn.GRUCell(5, 6), head=nn.Linear(6, 5))


ECHO = (row(5), row(5), row(6))


def test_a_second_signal_is_asked_about(made: Callable[..., ExportResult], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'far' is a state is not clear: result 2 has its shape"):
        made(cancelling, ECHO)
    assert not list(tmp_path.iterdir())


@pytest.mark.patterns
@pytest.mark.parametrize(
    ("states", "inputs", "names"),
    [
        ({"far": None}, ["mic", "far"], ["h"]),
        ({"far": 2}, ["mic"], ["far", "h"]),
        ({"far": None, "h": None}, ["mic", "far", "h"], []),
    ],
)
def test_the_caller_decides(
    states: dict[str, int | None],
    inputs: list[str],
    names: list[str],
    made: Callable[..., ExportResult],
) -> None:
    result = made(cancelling, ECHO, states=states)
    assert [spec.name for spec in result.contract.inputs] == inputs
    assert taken(result) == names


def computed(net: Any, x: Tensor, h: Tensor) -> Any:
    y, new = net.gru(x, torch.tanh(h))
    return y, new


@pytest.mark.patterns
def test_a_declared_state_may_be_computed_with_before_a_layer_takes_it(
    made: Callable[..., ExportResult],
) -> None:
    net = lambda: network(computed, gru=nn.GRU(5, 6, batch_first=True))  # noqa: E731
    with pytest.raises(ExportError, match="that forward computes from its arguments"):
        made(net, (sequence(5), H))
    result = made(net, (sequence(5), H), states={"h": "new"})
    assert taken(result) == ["h"]
    assert not result.contract.streaming.ok


def any_window(_: Any, x: Tensor, past: Tensor) -> Any:
    seen = torch.cat([past, x], 1)
    return seen.mean(1), seen[:, 1:]


def test_a_state_without_a_size_is_refused(made: Callable[..., ExportResult]) -> None:
    with pytest.raises(ExportError, match="'past' has the axis 'window', which no input has"):
        made(lambda: network(any_window), (row(1, 5), row("window", 5)))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_takes_no_states(tmp_path: Path) -> None:
    traced: Any = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))  # type: ignore[no-untyped-call]
    with pytest.raises(ExportError, match="leave out 'states'"):
        export(traced, (row(2),), tmp_path / "m.onnx", states={"x": "y"})
