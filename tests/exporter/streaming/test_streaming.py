"""Chunks do what the contract says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stateport
from stateport import Model, StreamingError
from stateport_exporter import ExportResult, Spec, export
from tests.chunks import check_chunks
from tests.exporter.reasons import REASONS, Denoiser

X = Spec("float32", "batch", "time", 8)


def exported(make: Callable[[], nn.Module], path: Path, *specs: Spec) -> ExportResult:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return export(make(), specs or (X,), path)


def joined(model: Model, parts: list[np.ndarray]) -> np.ndarray:
    """Along the axis that grows with time; of outputs without, the last counts."""
    axis = model.contract.outputs[0].time_axis
    return parts[-1] if axis is None else np.concatenate(parts, axis)


@pytest.mark.patterns
@pytest.mark.parametrize("reason", REASONS)
def test_a_network_that_cannot_be_fed_in_chunks_says_why(tmp_path: Path, reason: str) -> None:
    bad, _, _ = REASONS[reason]
    result = exported(bad, tmp_path / "m.onnx")
    assert not result.contract.streaming.ok
    assert result.contract.streaming.reason == reason
    model = stateport.load(result.path)
    with pytest.raises(StreamingError) as refusal:
        model.stream()
    assert reason in str(refusal.value)
    model(np.zeros((2, 48, 8), np.float32))  # whole sequences go on working
    check_chunks(result.path)


@pytest.mark.patterns
@pytest.mark.parametrize("reason", REASONS)
def test_the_network_beside_it_can(tmp_path: Path, reason: str) -> None:
    _, good, multiple = REASONS[reason]
    result = exported(good, tmp_path / "m.onnx")
    assert result.contract.streaming.ok, result.contract.streaming.reason
    assert result.contract.streaming.chunk_multiple == multiple
    check_chunks(result.path)
    model, stream = stateport.load(result.path), stateport.load(result.path).stream()
    x = np.random.default_rng(0).standard_normal((2, 48 * multiple, 8), np.float32)
    whole, _ = model(x)
    parts = [stream(part) for part in np.split(x, np.cumsum([1, 2, 30, 1]) * multiple, 1)]
    np.testing.assert_allclose(joined(model, parts), whole, rtol=0, atol=2e-6)


class Averaging(nn.Module):
    """Padding that is cut off again, or not; the mean of all former steps, written as a product."""

    def __init__(self, *, is_cut: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 8, 3, padding=2)
        self.is_cut = is_cut

    def forward(self, x: Tensor) -> Tensor:
        time = x.shape[1]
        y = self.conv(x.transpose(1, 2)).transpose(1, 2)
        y = y[:, :time] if self.is_cut else y[:, 1 : time + 1]
        weights = x.new_ones(time, time).tril()
        weights = weights / weights.sum(1, keepdim=True)
        result: Tensor = (weights[:, :, None] * y[:, None]).sum(2)
        return result


@pytest.mark.patterns
def test_only_what_looks_ahead_is_said_to(tmp_path: Path) -> None:
    reason = exported(
        lambda: Averaging(is_cut=False), tmp_path / "m.onnx"
    ).contract.streaming.reason
    assert reason == "conv pads 2 steps on the right: it looks ahead"
    reason = exported(lambda: Averaging(is_cut=True), tmp_path / "n.onnx").contract.streaming.reason
    assert reason is not None
    assert reason.startswith("measured: fed in chunks, 'y' is ")


class Mirrored(nn.Module):
    """The first steps are mirrored in front of the sequence, as audio codecs do it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv1d(8, 8, 5), nn.GRU(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(F.pad(x.transpose(1, 2), (4, 0), mode="reflect"))
        y: Tensor = self.gru(z.transpose(1, 2))[0]
        return y


@pytest.mark.patterns
def test_a_first_chunk_has_the_steps_that_are_mirrored(tmp_path: Path) -> None:
    result = exported(Mirrored, tmp_path / "m.onnx")
    streaming = result.contract.streaming
    assert (streaming.ok, streaming.chunk_multiple, streaming.lookahead) == (True, 5, 4)
    check_chunks(result.path)


class KeywordSpotter(nn.Module):
    """Convolutions in front of a GRU, between layers and behind, each with its own way to pad."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(12, 16, 5)
        self.second = nn.Conv1d(16, 16, 3, dilation=2, padding=4)
        self.gru = nn.GRU(16, 16, batch_first=True)
        self.between = nn.Conv1d(16, 16, 3, groups=4)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.behind = nn.Sequential(nn.ConstantPad1d((1, 0), 0.25), nn.Conv1d(16, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.first(F.pad(x.transpose(1, 2), (4, 0))))
        z = torch.relu(self.second(z)[..., :-4])
        y, _ = self.gru(z.transpose(1, 2))
        z = y.transpose(1, 2)
        z = self.between(torch.cat([torch.zeros(z.size(0), 16, 2), z], 2))
        y, _ = self.lstm(z.transpose(1, 2))
        result: Tensor = self.behind(y.transpose(1, 2)).transpose(1, 2)
        return result


class Image(nn.Module):
    """Convolutions over time and frequency: (batch, 1, time, 10), the second one over both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, (3, 3), stride=(1, 2), padding=(0, 1))
        self.second = nn.Conv2d(4, 4, (2, 3), padding=(1, 1))
        self.lstm = nn.LSTM(20, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.first(F.pad(x, (0, 0, 2, 0))))
        z = torch.relu(self.second(z)[:, :, :-1])
        y, _ = self.lstm(z.transpose(1, 2).flatten(2))
        result: Tensor = y
        return result


class Causal(nn.Module):
    """A convolution that keeps what is right of its window out."""

    def __init__(self, size: int, dilation: int) -> None:
        super().__init__()
        self.cut = (size - 1) * dilation
        self.conv = nn.Conv1d(8, 8, size, padding=self.cut, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(x)[..., : -self.cut])


def dilated() -> nn.Module:
    """A stack of dilated causal convolutions, without any recurrent layer."""
    return nn.Sequential(*(Causal(3, 2**level) for level in range(5)))


class Pooled(nn.Module):
    """Time divided by 2, by 3 in a slice, and by 2 in another way; then put back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 8, 3, stride=2)
        self.pool = nn.MaxPool1d(2)
        self.gru = nn.GRU(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(F.pad(x.transpose(1, 2), (2, 0)))[..., ::3]
        y, _ = self.gru(self.pool(z).transpose(1, 2))
        result: Tensor = y
        return result


#: A network, what it takes, the multiple of its chunks, its delay, and the names of its states.
STREAMS: dict[str, tuple[Callable[[], nn.Module], Spec, int, int, set[str]]] = {
    "keyword spotter": (
        KeywordSpotter,
        Spec("float32", "batch", "time", 12),
        1,
        0,
        {"gru_h0", "lstm_h0", "lstm_c0", "frames", "frames_2", "second_frames", "behind_0_frames"},
    ),
    "denoiser": (
        lambda: Denoiser(right=True),
        X,
        4,
        3,
        {"h0", "c0", "frames", "synthesis_overlap"},
    ),
    "dilated": (
        dilated,
        Spec("float32", "batch", 8, "time"),
        1,
        0,
        {f"{level}_conv_frames" for level in range(5)},
    ),
    "image": (
        Image,
        Spec("float32", "batch", 1, "time", 10),
        1,
        0,
        {"h0", "c0", "frames", "second_frames"},
    ),
    # An output step covers 12 input steps. The second half of its pool begins with the seventh.
    "pooled": (Pooled, X, 12, 6, {"h0", "frames"}),
}


@pytest.fixture(scope="module", params=STREAMS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Each of the networks, exported once."""
    name: str = request.param
    make, spec, *_ = STREAMS[name]
    FILES[name] = exported(make, tmp_path_factory.mktemp("streams") / "m.onnx", spec)
    return name


FILES: dict[str, ExportResult] = {}


@pytest.mark.patterns
def test_its_contract_says_what_a_chunk_must_be(case: str) -> None:
    _, _, multiple, lookahead, states = STREAMS[case]
    contract = FILES[case].contract
    assert (contract.streaming.ok, contract.streaming.reason) == (True, None)
    assert (contract.streaming.chunk_multiple, contract.streaming.lookahead) == (
        multiple,
        lookahead,
    )
    assert {state.input for state in contract.states} == states
    assert {*FILES[case].lifted} == states


@pytest.mark.patterns
def test_its_answers_are_pytorchs_over_thousands_of_steps(case: str) -> None:
    report = FILES[case].report
    assert report is not None
    assert report.passed
    assert report.bound == "8 times the floor"
    assert report.steps >= 2048 * STREAMS[case][2]


@pytest.mark.patterns
def test_chunks_of_every_length_give_what_the_whole_gives(case: str) -> None:
    make, spec, multiple, _, _ = STREAMS[case]
    model = stateport.load(FILES[case].path)
    axis = spec.shape.index("time")
    random = np.random.default_rng(0)
    shape = [{"batch": 2, "time": 24 * multiple}.get(str(a), a) for a in spec.shape]
    x = random.standard_normal(shape, np.float32)  # type: ignore[arg-type]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        whole = np.asarray(make().eval()(torch.from_numpy(x)))
    for length in range(1, 25):
        stream = model.stream()
        cuts = np.arange(length * multiple, x.shape[axis], length * multiple)
        parts = [stream(part) for part in np.split(x, cuts, axis)]
        np.testing.assert_allclose(joined(model, parts), whole, rtol=0, atol=2e-6)


def test_a_pool_of_them_gives_what_each_gives(case: str) -> None:
    _, spec, multiple, *_ = STREAMS[case]
    model = stateport.load(FILES[case].path)
    pool, random = model.pool(5), np.random.default_rng(0)
    streams = pool.open(5)
    alone = [model.stream() for _ in streams]
    for number in range(12):
        some = random.permutation(5)[: 1 + number % 5]
        sizes = {"batch": len(some), "time": multiple * (1 + number % 3)}
        shape = [sizes.get(str(a), a) for a in spec.shape]
        x = random.standard_normal(shape, np.float32)  # type: ignore[arg-type]
        y = pool.step(streams[some], x)
        own = np.concatenate([alone[s](x[i : i + 1]) for i, s in enumerate(some)])
        np.testing.assert_allclose(y, own, rtol=0, atol=2e-6)
        if number == 6:
            pool.close(streams[2])
            streams[2] = pool.open()
            alone[2].reset()


def test_a_chunk_of_another_length_is_refused(case: str) -> None:
    _, spec, multiple, *_ = STREAMS[case]
    if multiple == 1:
        return
    shape = [{"batch": 2, "time": multiple + 1}.get(str(a), a) for a in spec.shape]
    x = np.zeros(shape, np.float32)  # type: ignore[arg-type]
    model = stateport.load(FILES[case].path)
    pool = model.pool(2)
    calls: list[Callable[[], object]] = [
        lambda: model.stream()(x),
        lambda: pool.step(pool.open(2), x),
    ]
    for call in calls:
        with pytest.raises(stateport.InputError) as refusal:
            call()
        said = str(refusal.value)
        assert (
            f"This chunk has {multiple + 1} steps; the network takes {multiple} at a time" in said
        )
        assert "Keep the last 1 for the next one" in said


def test_a_sequence_does_not_go_on_behind_steps_that_were_left_out(
    case: str, tmp_path: Path
) -> None:
    """A whole sequence may have any length, but the state behind it lacks its last steps."""
    _, spec, multiple, *_ = STREAMS[case]
    if multiple == 1:
        return
    shape = [{"batch": 2, "time": 3 * multiple + 1}.get(str(a), a) for a in spec.shape]
    x = np.zeros(shape, np.float32)  # type: ignore[arg-type]
    model = stateport.load(FILES[case].path)
    _, state = model(x)

    says = "left its last 1 steps out of it.*the sequence cannot go on"
    for use in (
        lambda: model(x, state),
        lambda: model(x, copy.deepcopy(state)),
        lambda: model.stream().restore(state),
        lambda: state.save(tmp_path / "state.safetensors"),
    ):
        with pytest.raises(stateport.StateError, match=says):
            use()
    assert not list(tmp_path.iterdir())


class PaddedByBuffers(nn.Module):
    """Sizes of paddings are buffers, computed as those of EnCodec's convolutions are."""

    left: Any  # tensors, which F.pad takes where its types say int
    stride: Any

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frames = nn.Conv1d(4, 4, 4, stride=2)
        self.register_buffer("left", torch.tensor(2))
        self.register_buffer("stride", torch.tensor(2))

    def forward(self, x: Tensor) -> Tensor:
        time = x.shape[-1]
        count = torch.ceil(time / self.stride).to(torch.int64)
        right = count * self.stride - time
        result: Tensor = self.frames(nn.functional.pad(x, (self.left, right)))
        return result


def test_paddings_that_are_buffers_carry_steps(tmp_path: Path) -> None:
    spec = Spec("float32", "batch", 4, "time")
    result = export(PaddedByBuffers().eval(), spec, tmp_path / "m.onnx")
    assert [state.shape for state in result.contract.states] == [("batch", 4, 2)]
    assert result.contract.streaming.chunk_multiple == 2
    check_chunks(result.path)


class DividedFromTheEnd(nn.Module):
    """Divides by what is left of the call, which is zero at a step that another call has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(8, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(x)[0]
        return y / (x.shape[1] - torch.arange(x.shape[1]))[:, None]


def test_beside_an_infinite_value_others_still_have_to_agree(tmp_path: Path) -> None:
    streaming = export(DividedFromTheEnd().eval(), (X,), tmp_path / "m.onnx").contract.streaming
    assert streaming.reason == "forward counts the steps from the beginning of each call"


def of_a_peak(gru: nn.GRU, x: Tensor) -> Tensor:
    """The gain is turned down for loud sequences alone."""
    y: Tensor = gru(x / x.abs().amax((1, 2), keepdim=True).clamp(min=8))[0]
    return y


def of_a_sign(gru: nn.GRU, x: Tensor) -> Tensor:
    y: Tensor = gru(x)[0]
    return torch.where(y.sum() > 0, y, 2 * y)


def of_a_branch(gru: nn.GRU, x: Tensor) -> Tensor:
    y: Tensor = gru(x)[0]
    chosen: Tensor = torch.cond(y.sum() > 0, lambda y: y * 1, lambda y: 2 * y, (y,))
    return chosen


def of_saturated_steps(gru: nn.GRU, x: Tensor) -> Tensor:
    y: Tensor = gru(x)[0]
    return y + torch.relu(y.mean(1, keepdim=True) - 0.9)


def of_a_large_offset(gru: nn.GRU, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    y: Tensor = gru(torch.where(mean.abs() > 2, x - mean, x))[0]
    return y


def of_the_first_step(gru: nn.GRU, x: Tensor) -> Tensor:
    y: Tensor = gru(x)[0]
    return torch.where(x[:, :1, :1] > 6, 2 * y, y)


def of_the_last_sum(gru: nn.GRU, x: Tensor) -> Tensor:
    y: Tensor = gru(x)[0]
    return torch.where(x.cumsum(1)[:, -1:, :1] > 300, 2 * y, y)


def of_a_saturated_end(gru: nn.GRU, x: Tensor) -> Tensor:
    y, last = gru(x)
    louder: Tensor = y + torch.relu(last[-1] - 0.9)[:, None]
    return louder


OF_SOME_SEQUENCES = (
    of_a_saturated_end,
    of_a_peak,
    of_a_sign,
    of_a_branch,
    of_saturated_steps,
    of_a_large_offset,
    of_the_first_step,
    of_the_last_sum,
)


@pytest.mark.parametrize("forward", OF_SOME_SEQUENCES)
def test_what_counts_for_some_sequences_alone_is_seen(
    forward: Callable[..., Tensor], tmp_path: Path
) -> None:
    """On usual random data these give in chunks what they give whole."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(8, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return forward(self.gru, x)

    contract = exported(Network, tmp_path / "m.onnx").contract

    assert not contract.streaming.ok
    reason = str(contract.streaming.reason)
    said = ("over time", "sums up from the beginning", "with inputs of another magnitude or sign")
    assert any(part in reason for part in (*said, "uses the last state of gru in every step"))


class FromAState(nn.Module):
    """A layer with its state as an argument."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(8, 4, batch_first=True)

    def forward(self, x: Tensor, h: Tensor) -> Any:
        y, last = self.gru(x, h)
        return y + torch.zeros(h.shape[1], x.shape[1], 1), last


class WithItsStart(FromAState):
    """A saturated first state counts in every step of a call."""

    def forward(self, x: Tensor, h: Tensor) -> Any:
        y, last = self.gru(x, h)
        return y + torch.relu(h[-1] - 0.7)[:, None], last


class WithItsEnd(FromAState):
    def forward(self, x: Tensor, h: Tensor) -> Any:
        y, last = self.gru(x, h)
        return torch.cat([y, last[-1][:, None].expand(-1, x.shape[1], -1)], 2), last


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (FromAState(), None),
        (WithItsStart(), "forward uses the first state of gru in every step"),
        (WithItsEnd(), "forward uses the last state of gru in every step"),
    ],
)
def test_a_state_that_counts_besides_by_its_layer(
    network: nn.Module, reason: str | None, tmp_path: Path
) -> None:
    state = Spec("float32", 1, "batch", 4)
    result = export(network, (X, state), tmp_path / "m.onnx")
    assert result.contract.streaming.reason == reason
