# SPDX-License-Identifier: Apache-2.0
"""States in attributes and buffers that no recurrent layer shows."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport_exporter import ExportError, Spec, export
from stateport_exporter.memory.remembered import MadeExplicit, with_memory_explicit
from stateport_exporter.network.example import Example

STEP = Spec("float32", "batch", 4)
SEQUENCE = Spec("float32", "batch", "time", 4)


class Cell(nn.Module):
    """A step written by hand; `kept` is where its state is at first."""

    def __init__(self, kept: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.u = nn.Linear(4, 6), nn.Linear(6, 6)
        self.h: Any = kept

    def forward(self, x: Tensor) -> Any:
        h = x.new_zeros(x.shape[0], 6) if self.h is None else self.h
        self.h = torch.tanh(self.w(x) + self.u(h))
        return self.h * 2


class Buffered(Cell):
    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        del self.h
        self.register_buffer("h", kept)


class InPlace(Buffered):
    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.w(x) + self.u(self.h))
        self.h.copy_(h)
        return h


class InDict(Cell):
    def __init__(self) -> None:
        super().__init__({})

    def forward(self, x: Tensor) -> Any:
        h = self.h.get("cell", torch.zeros(x.shape[0], 6))
        self.h["cell"] = torch.tanh(self.w(x) + self.u(h))
        return self.h["cell"]


class InList(nn.Module):
    """Two cells, one above the other, whose states are in one list."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        self.us = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.states = [torch.zeros(1, 4) for _ in self.us]

    def forward(self, x: Tensor) -> Any:
        for number, u in enumerate(self.us):
            x = torch.tanh(self.first(x) + u(self.states[number]))
            self.states[number] = x
        return x


class Layer(nn.Module):
    """An LSTM whose states are in buffers of a fixed batch."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.LSTM(4, 6, batch_first=True)
        self.h: Tensor
        self.c: Tensor
        self.register_buffer("h", torch.zeros(1, batch, 6))
        self.register_buffer("c", torch.zeros(1, batch, 6))

    def forward(self, x: Tensor) -> Any:
        y, (self.h, self.c) = self.rnn(x, (self.h, self.c))
        return y


class Swapped(nn.Module):
    """An LSTM whose states are exchanged between calls, beside the last step of the input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.LSTM(4, 4, batch_first=True)
        self.kept: Any = None
        self.last: Any = None

    def forward(self, x: Tensor) -> Any:
        last = torch.zeros_like(x[:, :1]) if self.last is None else self.last
        y, (h, c) = self.rnn(x + last, self.kept)
        self.kept, self.last = (c, h), x[:, -1:]
        return y


class Membrane(nn.Module):
    """A neuron whose state is a number at first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w = nn.Linear(4, 6)
        self.mem: Any = 0.0

    def forward(self, x: Tensor) -> Any:
        self.mem = 0.9 * self.mem + self.w(x)
        return torch.sigmoid(self.mem)


class Window(nn.Module):
    """The last two steps before this one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w = nn.Linear(12, 3)
        self.past: Tensor
        self.register_buffer("past", torch.zeros(1, 2, 4))

    def forward(self, x: Tensor) -> Any:
        window = torch.cat([self.past.expand(x.shape[0], -1, -1), x[:, None]], 1)
        self.past = window[:, 1:]
        return self.w(window.flatten(1))


class FromFirst(Cell):
    """The first call starts from its own input."""

    def forward(self, x: Tensor) -> Any:
        x = self.w(x)
        self.h = x if self.h is None else 0.9 * self.h + 0.1 * x
        return self.h


class MeanOfRows(Buffered):
    def forward(self, x: Tensor) -> Any:
        self.h = 0.9 * self.h + 0.1 * self.w(x).mean(0)
        return self.w(x) - self.h


class MixedRows(Buffered):
    def forward(self, x: Tensor) -> Any:
        self.h = torch.tanh(self.w(x) + self.h.flip(0))
        return self.h


class Counting(Cell):
    def forward(self, x: Tensor) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x) * self.calls


class Rolled(nn.Module):
    """The last three steps, in a buffer that is rolled and written into."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w = nn.Linear(12, 3)
        self.ring: Tensor
        self.register_buffer("ring", torch.zeros(1, 3, 4))

    def forward(self, x: Tensor) -> Any:
        self.ring = torch.roll(self.ring, -1, 1)
        self.ring[:, -1] = x
        return self.w(self.ring.flatten(1))


class Convolved(nn.Module):
    """A convolution with the last frames of the call before in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv1d(4, 3, 3)
        self.frames = torch.zeros(1, 4, 2)

    def forward(self, x: Tensor) -> Any:
        x = torch.cat([self.frames, x.mT], 2)
        self.frames = x[:, :, -2:]
        return self.convolution(x).mT


@dataclass
class Kept:
    """What Moshi's layers keep, as an object on the module."""

    past: Tensor | None = None


class InObject(nn.Module):
    """A convolution that keeps the last steps in an object."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kept = Kept()
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: Tensor) -> Any:
        x = x.transpose(1, 2)
        if self.kept.past is None:
            self.kept.past = x.new_zeros(x.shape[0], 4, 2)
        x = torch.cat([self.kept.past, x], -1)
        self.kept.past = x[..., -2:]
        return self.conv(x).transpose(1, 2)


class InObjects(nn.Module):
    """Cells with an object for each, in a list."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kept = [Kept(), Kept(torch.zeros(1, 4))]
        self.cells = nn.ModuleList([nn.Linear(8, 4), nn.Linear(8, 4)])

    def forward(self, x: Tensor) -> Any:
        for cell, kept in zip(self.cells, self.kept, strict=True):
            past = x.new_zeros(x.shape[0], 4) if kept.past is None else kept.past
            x = kept.past = torch.tanh(cell(torch.cat([x, past.expand(x.shape[0], -1)], 1)))
        return x


@dataclass(slots=True)
class KeptInSlots:
    """As `Kept`, and the number of calls."""

    past: Tensor
    calls: int = 0


class InSlots(nn.Module):
    """A convolution that keeps the last steps in an object with `__slots__`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kept = KeptInSlots(torch.zeros(1, 4, 2))
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: Tensor) -> Any:
        past = self.kept.past.expand(x.shape[0], -1, -1)
        x = torch.cat([past, x.transpose(1, 2)], -1)
        self.kept.past = x[..., -2:]
        self.kept.calls += 1
        return self.conv(x).transpose(1, 2)


class CountingInSlots(InSlots):
    """The number of calls counts."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x) + self.kept.calls


class InOrderedDict(nn.Module):
    """States in a subclass of dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kept: Any = OrderedDict(h=None)
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        y, self.kept["h"] = self.gru(x, self.kept["h"])
        return y


class WeightsInAList(nn.Module):
    """A loop with parameters that PyTorch does not know of, nor `.double()`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weights = [nn.Parameter(torch.randn(4, 4) / 4) for _ in range(2)]

    def forward(self, x: Tensor) -> Any:
        h, ys = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = torch.tanh(x[:, t] @ self.weights[0] + h @ self.weights[1])
            ys.append(h)
        return torch.stack(ys, 1)


class LoopFromAttribute(nn.Module):
    """A loop that starts from a tensor in an attribute, which `.double()` does not reach."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.h: Any = torch.zeros(1, 5)
        self.inner = nn.Linear(4, 5)
        self.recurrent = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Any:
        h, ys = self.h.expand(x.shape[0], -1), []
        for t in range(x.shape[1]):
            h = torch.tanh(self.inner(x[:, t]) + self.recurrent(h))
            ys.append(h)
        self.h = h
        return torch.stack(ys, 1)


class WrittenOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)
        self.last: Any = None

    def forward(self, x: Tensor) -> Any:
        self.last = x
        return self.rnn(x)[0]


def explicit(network: nn.Module, spec: Spec = STEP) -> MadeExplicit | None:
    network.eval()
    return with_memory_explicit(network, "forward", Example(network.forward, (spec,)))


@pytest.mark.parametrize(
    ("network", "spec", "shapes"),
    [
        (Cell(), STEP, {"h": ("batch", 6)}),
        (Cell(torch.zeros(1, 6)), STEP, {"h": ("batch", 6)}),
        (Buffered(torch.zeros(8, 6)), STEP, {"h": ("batch", 6)}),
        (Buffered(torch.full((1, 6), 0.5)), STEP, {"h": ("batch", 6)}),
        (InPlace(torch.zeros(1, 6)), STEP, {"h": ("batch", 6)}),
        (InDict(), STEP, {"h_cell": ("batch", 6)}),
        (InList(), STEP, {"states_0": ("batch", 4), "states_1": ("batch", 4)}),
        (Layer(1), SEQUENCE, {"h": (1, "batch", 6), "c": (1, "batch", 6)}),
        (Layer(8), SEQUENCE, {"h": (1, "batch", 6), "c": (1, "batch", 6)}),
        (
            Swapped(),
            SEQUENCE,
            {"kept_0": (1, "batch", 4), "kept_1": (1, "batch", 4), "last": ("batch", 1, 4)},
        ),
        (Membrane(), STEP, {"mem": ("batch", 6)}),
        (Window(), STEP, {"past": ("batch", 2, 4)}),
        (InObject(), SEQUENCE, {"kept_past": ("batch", 4, 2)}),
        (InSlots(), SEQUENCE, {"kept_past": ("batch", 4, 2)}),
        (InObjects(), STEP, {"kept_0_past": ("batch", 4), "kept_1_past": ("batch", 4)}),
    ],
)
def test_what_is_kept_becomes_arguments(
    network: nn.Module, spec: Spec, shapes: dict[str, tuple[int | str, ...]]
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    made = explicit(network, spec)
    assert made is not None
    assert {str(leaf): leaf.shape for leaf in made.example.remembered} == shapes
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    "network",
    [
        FromFirst(),
        MeanOfRows(torch.zeros(6)),
        MixedRows(torch.zeros(1, 6)),
        Counting(),
        Buffered(torch.arange(48.0).reshape(8, 6)),
    ],
)
def test_what_is_no_state_of_one_sequence_stays(network: nn.Module) -> None:
    assert explicit(network) is None


def test_what_is_only_written_is_no_state() -> None:
    assert explicit(WrittenOnly(), SEQUENCE) is None


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (FromFirst(), r"remembers something.*\(h\).*take it as an argument"),
        (MeanOfRows(torch.zeros(6)), r"remembers something.*\(h\).*take it as an argument"),
        (Buffered(torch.arange(48.0).reshape(8, 6)), "is made for a batch of 8"),
        (CountingInSlots(), r"remembers something.*kept\.calls"),
    ],
)
def test_other_memories_are_refused(network: nn.Module, message: str, tmp_path: Path) -> None:
    example = SEQUENCE if isinstance(network, CountingInSlots) else STEP
    with pytest.raises(ExportError, match=message):
        export(network, (example,), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("network", "spec", "batch", "notes"),
    [
        (Buffered(torch.full((8, 6), 0.5)), STEP, 8, 1),
        (InList(), STEP, 3, 0),
        (InObject(), SEQUENCE, 3, 0),
        (InSlots(), SEQUENCE, 3, 0),
        (LoopFromAttribute(), SEQUENCE, 3, 0),
        (InOrderedDict(), SEQUENCE, 3, 0),
        (InObjects(), STEP, 3, 0),
        (Layer(2), SEQUENCE, 2, 0),
    ],
)
def test_the_file_goes_on_as_the_network_does(
    network: nn.Module, spec: Spec, batch: int, notes: int, tmp_path: Path
) -> None:
    result = export(network, (spec,), tmp_path / "m.onnx")
    assert len(result.notes) == notes
    assert result.contract.limits == ()
    assert set(result.lifted) == {state.input for state in result.contract.states}
    assert all("batch" in state.shape for state in result.contract.states)

    random = np.random.default_rng(0)
    shape = (batch, 5, 4) if spec is SEQUENCE else (batch, 4)
    model, state = stateport.load(result.path), None
    for _ in range(4):
        x = random.standard_normal(shape).astype(np.float32)
        y, state = model(x, state) if state is not None else model(x)
        with torch.no_grad():
            want = network(torch.from_numpy(x))
        np.testing.assert_allclose(y, want, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Cell(), (1, 4)),
        (Buffered(torch.zeros(1, 6)), (1, 4)),
        (Buffered(torch.zeros(2, 6)), (2, 4)),
        (InPlace(torch.zeros(1, 6)), (1, 4)),
        (InDict(), (3, 4)),
        (Membrane(), (1, 4)),
        (Rolled(), (1, 4)),
        (Convolved(), (1, "time", 4)),
        (MeanOfRows(torch.zeros(6)), (2, 4)),
        (MixedRows(torch.zeros(2, 6)), (2, 4)),
    ],
)
def test_an_example_of_a_fixed_batch_has_states_of_that_batch(
    network: nn.Module, shape: tuple[int | str, ...], tmp_path: Path
) -> None:
    result = export(network, (Spec("float32", *shape),), tmp_path / "m.onnx")
    assert len(result.contract.states) == 1
    assert "batch" not in result.contract.states[0].shape

    random = np.random.default_rng(0)
    sizes = [5 if size == "time" else int(size) for size in shape]
    stream = stateport.load(result.path).stream()
    for _ in range(5):
        x = random.standard_normal(sizes).astype(np.float32)
        with torch.no_grad():
            want = network(torch.from_numpy(x))
        np.testing.assert_allclose(stream(x), want, atol=1e-5)


class CountedMean(nn.Module):
    """A running mean, and the number of its steps, which has no axes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w = nn.Linear(4, 3)
        self.mean: Tensor
        self.steps: Tensor
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        self.steps = self.steps + 1
        self.mean = self.mean + (x.mean(0) - self.mean) / self.steps
        return self.w(x - self.mean)


def test_a_state_may_have_no_axes(tmp_path: Path) -> None:
    network = CountedMean()
    result = export(network, (Spec("float32", 2, 4),), tmp_path / "m.onnx")
    assert {state.input: state.shape for state in result.contract.states} == {
        "mean": (4,),
        "steps": (),
    }

    stream = stateport.load(result.path).stream()
    for _ in range(4):
        x = torch.randn(2, 4)
        with torch.no_grad():
            np.testing.assert_allclose(stream(x.numpy()), network(x), atol=1e-5)


def test_a_fixed_batch_does_not_hide_a_first_call_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"remembers something.*\(h\)"):
        export(FromFirst(), (Spec("float32", 1, 4),), tmp_path / "m.onnx")


def test_parameters_in_a_list_put_no_limit_on_the_length(tmp_path: Path) -> None:
    contract = export(WeightsInAList(), (SEQUENCE,), tmp_path / "m.onnx").contract
    assert (contract.limits, contract.streaming.ok) == ((), True)


class Forgetful:
    """An object whose copies have no state."""

    def __init__(self) -> None:
        self.h: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "h": None}


class Copied(Forgetful):
    """The same by a method of its own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Copied:
        return type(self)()


class InAnObject(nn.Module):
    def __init__(self, kept: Forgetful) -> None:
        super().__init__()
        self.gru, self.kept = nn.GRU(4, 5, batch_first=True), kept

    def forward(self, x: Tensor) -> Any:
        y, self.kept.h = self.gru(x, self.kept.h)
        return y


@pytest.mark.parametrize("kind", [Forgetful, Copied])
def test_what_copies_lose_is_refused_with_its_name(kind: type[Forgetful], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"A copy of the network has lost 'kept_h'"):
        export(InAnObject(kind()), (SEQUENCE,), tmp_path / "m.onnx")
