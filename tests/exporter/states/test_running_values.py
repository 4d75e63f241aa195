"""Running sums and their relatives, numbers of steps, and shifts: carried from call to call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stateport
from stateport import State
from stateport_exporter import Spec, export

X: Final = Spec("float32", "batch", "time", 4)


class Network(nn.Module):
    """Some layers, and a function that uses them."""

    def __init__(self, function: Callable[[Network, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.cell = nn.GRUCell(4, 4)
        self.padded = nn.Conv1d(4, 4, 4, padding=3)
        self.plain = nn.Conv1d(4, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)

    def loop(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)


def numbers(x: Tensor) -> Tensor:
    """1, 2, 3 ... for the steps of a sequence."""
    return torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[None, :, None]


def cumulative_norm(net: Network, x: Tensor) -> Tensor:
    mean = x.cumsum(1) / numbers(x)
    variance = (x * x).cumsum(1) / numbers(x) - mean * mean
    y: Tensor = net.gru((x - mean) / (variance.abs() + 1e-2).sqrt())[0]
    return y


def linear_attention(net: Network, x: Tensor) -> Tensor:
    q, k, v = F.elu(net.q(x)) + 1, F.elu(net.k(x)) + 1, net.v(x)
    memory = torch.einsum("btd,bte->btde", k, v).cumsum(1)
    weight = torch.einsum("btd,btd->bt", q, k.cumsum(dim=1))
    return torch.einsum("btd,btde->bte", q, memory) / weight[..., None]


def parallel_scan_of_logarithms(net: Network, x: Tensor) -> Tensor:
    """A minGRU, as Feng et al. (2024) write its training: h = (1 - z) h + z g(v)."""
    z, v = net.k(x), net.v(x)
    value = torch.where(v >= 0, (F.relu(v) + 0.5).log(), -F.softplus(-v))
    decay = -F.softplus(z)
    so_far = torch.cumsum(decay, 1)
    return (so_far + torch.logcumsumexp(value - F.softplus(-z) - so_far, 1)).exp()


def positions(net: Network, x: Tensor) -> Tensor:
    """Sinusoidal positions (Vaswani et al., 2017)."""
    angles = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001])
    y: Tensor = net.gru(x + angles.sin())[0]
    return y


def shifted(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)


def cut_convolution(net: Network, x: Tensor) -> Tensor:
    return F.silu(net.padded(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))


def padded_convolution(net: Network, x: Tensor) -> Tensor:
    return F.silu(net.plain(F.pad(x.transpose(1, 2), (3, 0))).transpose(1, 2))


#: Each network, and the names of its states.
NETWORKS: Final[dict[str, tuple[Callable[[Network, Tensor], Tensor], list[str]]]] = {
    "a sum": (lambda net, x: net.q(x.cumsum(1)), ["sum"]),
    "a product": (lambda net, x: net.q((1 - x.sigmoid() / 50).cumprod(1)), ["h0"]),
    "the largest": (lambda net, x: net.gru(x.cummax(1)[0])[0], ["loop_h0", "gru_h0"]),
    "the smallest": (lambda net, x: net.q(torch.cummin(x, 1).values), ["h0"]),
    "a mean": (lambda net, x: net.q(x.cumsum(1) / numbers(x)), ["count", "sum"]),
    "a mean beside a layer": (
        lambda net, x: torch.cat([net.gru(x)[0], x.cumsum(1) / numbers(x)], -1),
        ["h0", "count", "sum"],
    ),
    "cumulative normalisation": (cumulative_norm, ["h0", "sum", "count", "sum_2", "count_2"]),
    "linear attention": (linear_attention, ["sum", "sum_2"]),
    "a parallel scan of logarithms": (parallel_scan_of_logarithms, ["h0", "sum"]),
    "positions": (positions, ["h0", "count"]),
    "a shift": (lambda net, x: net.gru(x + shifted(x))[0], ["h0", "frames"]),
    "a shift by padding": (
        lambda net, x: net.gru(x + F.pad(x, (0, 0, 1, -1)))[0],
        ["h0", "frames"],
    ),
    "a shift before a loop": (lambda net, x: net.loop(net.q(x + shifted(x))), ["h0", "frames"]),
    "a convolution before a loop": (
        lambda net, x: net.loop(cut_convolution(net, x)),
        ["h0", "frames"],
    ),
    "padding before a loop": (
        lambda net, x: net.loop(padded_convolution(net, x)),
        ["h0", "frames"],
    ),
    "a loop before a convolution": (
        lambda net, x: cut_convolution(net, net.loop(x)),
        ["h0", "frames"],
    ),
    "a sum before a loop": (lambda net, x: net.loop(net.q(x).cumsum(1).sin()), ["h0", "sum"]),
}


@pytest.mark.patterns
@pytest.mark.parametrize("name", NETWORKS)
def test_chunks_give_what_the_whole_gives(name: str, tmp_path: Path) -> None:
    function, states = NETWORKS[name]
    network = Network(function).eval()
    result = export(network, (X,), tmp_path / "m.onnx")
    assert result.contract.streaming.ok, result.contract.streaming.reason
    assert sorted(state.input for state in result.contract.states) == sorted(states)
    assert result.report is not None
    assert result.report.passed

    x = np.random.default_rng(0).standard_normal((2, 4096, 4)).astype("f4")
    model = stateport.load(result.path)
    with torch.no_grad():
        whole = network(torch.from_numpy(x)).numpy()
    scale = np.abs(whole).max()
    for chunks in ([1] * 64, [2, 3, 7, 64, 1, 500], [64] * 64):
        stream = model.stream()
        ends = np.cumsum(chunks)
        pieces = [stream(part) for part in np.split(x[:, : ends[-1]], ends[:-1], 1)]
        got = np.concatenate(pieces, 1)
        np.testing.assert_allclose(got, whole[:, : ends[-1]], atol=1e-3 * scale)


def test_the_number_of_steps_is_a_state(tmp_path: Path) -> None:
    network = Network(lambda net, x: net.q(x / numbers(x))).eval()
    result = export(network, (X,), tmp_path / "m.onnx")
    (state,) = result.contract.states
    assert (state.input, state.dtype, state.shape) == ("count", "int64", (1,))

    model = stateport.load(result.path)
    x = np.ones((1, 3, 4), np.float32)
    _, last = model.run({"x": x})
    assert last["count"].tolist() == [3]
    outputs, _ = model.run({"x": x}, State({"count": np.array([9999])}))
    with torch.no_grad():
        want = network.q(torch.from_numpy(x) / torch.arange(10_000, 10_003)[None, :, None])
    np.testing.assert_allclose(outputs["y"], want, atol=1e-6)


def test_numbers_that_tell_padding_from_data_begin_in_every_call(tmp_path: Path) -> None:
    """As they are not carried, the network streams as it did."""

    def masked(net: Network, x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[1])[None, :, None]
        y: Tensor = net.gru(x)[0] * (rows < 10_000)
        return y

    result = export(Network(masked).eval(), (X,), tmp_path / "m.onnx")
    assert result.contract.streaming.ok
    assert [state.input for state in result.contract.states] == ["h0"]


#: What PyTorch calls `dim` may be called by NumPy's name, too.
AXIS: Final[dict[str, Any]] = {"axis": -1}

#: Along the features nothing is carried: each step has its own.
ALONG_FEATURES: Final[dict[str, Callable[[Network, Tensor], Tensor]]] = {
    "a sum": lambda net, x: net.gru(x.cumsum(**AXIS))[0],
    "a product": lambda net, x: net.gru(x.cumprod(-1))[0],
    "the largest": lambda net, x: net.gru(x.cummax(2).values)[0],
    "a log of sums": lambda net, x: net.gru(torch.logcumsumexp(x, **AXIS))[0],
}


@pytest.mark.patterns
@pytest.mark.parametrize("name", ALONG_FEATURES)
def test_along_the_features_nothing_is_carried(name: str, tmp_path: Path) -> None:
    result = export(Network(ALONG_FEATURES[name]).eval(), (X,), tmp_path / "m.onnx")
    assert [state.shape for state in result.contract.states] == [(1, "batch", 4)]
    assert result.contract.streaming.ok
    assert result.report is not None
    assert result.report.passed


@pytest.mark.patterns
def test_whole_numbers_are_carried_as_such(tmp_path: Path) -> None:
    def counted(net: Network, x: Tensor) -> Tensor:
        loud = (x > 1).cumsum(1)
        largest = (x * 100).long().cummax(1)[0]
        never_loud = (x < 2).cumprod(1, dtype=torch.float32)
        y: Tensor = net.gru(torch.sin(loud * 0.1) + largest / 1000 + never_loud)[0]
        return y

    result = export(Network(counted).eval(), (X,), tmp_path / "m.onnx")
    assert result.contract.streaming.ok
    dtypes = [state.dtype for state in result.contract.states]
    assert sorted(dtypes) == ["float32", "float32", "int64", "int64"]
