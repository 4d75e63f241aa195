"""The shortest sequence is found and stands in the contract; strides leave steps to trace."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stateport import InputError, load
from stateport_exporter import ExportResult, Spec, export

AUDIO = Spec("float32", "batch", "time")
FEATURES = Spec("float32", "batch", "time", 3)


class Frames(nn.Module):
    """A recurrent layer behind a convolution over raw audio."""

    def __init__(self, kernel: int, stride: int, *, bidirectional: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, kernel, stride)
        self.gru = nn.GRU(4, 3, batch_first=True, bidirectional=bidirectional)

    def forward(self, audio: Tensor) -> Tensor:
        frames = torch.relu(self.conv(audio[:, None])).transpose(1, 2)
        hidden: Tensor = self.gru(frames)[0]
        return hidden


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool1d(5, 1)
        self.rnn = nn.LSTM(3, 3, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.rnn(self.pool(x.transpose(1, 2)).transpose(1, 2))[0]
        return hidden


class Deviation(nn.Module):
    """A standard deviation over one step is NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        deviation: Tensor = self.rnn(x)[0].std(1)
        return deviation


class Differences(nn.Module):
    """The difference of neighbours is one step shorter."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mean: Tensor = self.rnn(x[:, 1:] - x[:, :-1])[0].mean(1)
        return mean


class Spectrum(nn.Module):
    """A short-time Fourier transform without padding."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(64))
        self.rnn = nn.GRU(33, 3, batch_first=True)

    def forward(self, audio: Tensor) -> Tensor:
        frames = audio.unfold(1, 64, 32) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1)
        hidden: Tensor = self.rnn(torch.log1p(spectrum))[0]
        return hidden


def exported(network: nn.Module, example: Spec, folder: Path) -> ExportResult:
    torch.manual_seed(0)
    return export(network.eval(), example, folder / "m.onnx")


def check_against_pytorch(network: nn.Module, path: Path, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(x)).numpy()
    answer, *_ = load(path)(x)
    np.testing.assert_allclose(answer, expected, atol=2e-5, rtol=1e-4)


# A chain of 2,048 chunks is long where a chunk has many steps.
LONG = pytest.mark.patterns


@pytest.mark.parametrize(
    "stride", [2, 4, pytest.param(160, marks=LONG), pytest.param(320, marks=LONG)]
)
def test_a_kernel_as_long_as_its_stride_streams_in_multiples(tmp_path: Path, stride: int) -> None:
    network = Frames(stride, stride)
    contract = exported(network, AUDIO, tmp_path).contract
    assert contract.streaming.ok, contract.streaming.reason
    assert (contract.streaming.chunk_multiple, contract.minimums) == (stride, (("time", stride),))
    check_against_pytorch(network, tmp_path / "m.onnx", (2, 5 * stride))


@pytest.mark.parametrize(("kernel", "stride"), [(4, 4), (2, 4), (3, 5)])
def test_a_whole_sequence_may_be_shorter_than_a_chunk(
    tmp_path: Path, kernel: int, stride: int
) -> None:
    network = Frames(kernel, stride)
    contract = exported(network, AUDIO, tmp_path).contract
    assert contract.shortest_chunk == stride
    assert contract.minimums == (("time", kernel),)

    check_against_pytorch(network, tmp_path / "m.onnx", (2, kernel))
    with pytest.raises(InputError, match=rf"'time' is {kernel - 1} .*at least {kernel}"):
        load(tmp_path / "m.onnx")(np.zeros((2, kernel - 1), np.float32))


@pytest.mark.parametrize(
    ("network", "example", "shortest"),
    [
        (Frames(32, 10, bidirectional=True), AUDIO, 32),
        (Frames(9, 3, bidirectional=True), AUDIO, 9),
        pytest.param(Frames(400, 160, bidirectional=True), AUDIO, 400, marks=LONG),
        (Pooled(), FEATURES, 5),
        (Deviation(), FEATURES, 2),
        (Differences(), FEATURES, 2),
    ],
    ids=["32", "9", "400", "pool", "deviation", "differences"],
)
def test_the_shortest_length_stands_in_the_contract(
    tmp_path: Path, network: nn.Module, example: Spec, shortest: int
) -> None:
    contract = exported(network, example, tmp_path).contract
    assert contract.minimums == (("time", shortest),)

    model, rest = (
        load(tmp_path / "m.onnx"),
        [size for size in example.shape if isinstance(size, int)],
    )
    for time in (shortest, shortest + 1, 3 * shortest):
        check_against_pytorch(network, tmp_path / "m.onnx", (2, time, *rest))
    with pytest.raises(InputError, match=rf"'time' is {shortest - 1} .*at least {shortest}"):
        model(np.zeros((2, shortest - 1, *rest), np.float32))


@LONG
def test_a_spectrum_of_raw_audio(tmp_path: Path) -> None:
    network = Spectrum()
    exported(network, AUDIO, tmp_path)
    check_against_pytorch(network, tmp_path / "m.onnx", (2, 640))


def test_a_network_that_takes_every_length_has_no_shortest(tmp_path: Path) -> None:
    contract = exported(nn.GRU(3, 3, batch_first=True), FEATURES, tmp_path).contract
    assert contract.minimums == ()
