# SPDX-License-Identifier: Apache-2.0
"""TorchScript modules that keep states in attributes and buffers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import ExportError, Spec, export
from tests.chunks import check_calls_go_on

X = Spec("float32", "batch", "time", 4)


class Held(nn.Module):
    """Keeps the state of an LSTM, of a batch of 2."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.h = torch.zeros(1, 2, 8)
        self.c = torch.zeros(1, 2, 8)

    def forward(self, x: Tensor) -> Tensor:
        y, (h, c) = self.lstm(x, (self.h, self.c))
        self.h = h
        self.c = c
        result: Tensor = y
        return result


class Two(nn.Module):
    """Two such parts, one inside of the other's answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Held(), Held()
        self.between = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.between(self.first(x)))
        return y


class Counting(nn.Module):
    """Counts its calls too, which changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.held = Held()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.held(x)
        return y


class Frames(nn.Module):
    """Keeps the last two steps for a convolution, in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(4, 8, 3)
        self.register_buffer("frames", torch.zeros(2, 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.frames, x.transpose(1, 2)], 2)  # type: ignore[has-type]
        self.frames = joined[:, :, -2:]
        y: Tensor = self.convolution(joined).transpose(1, 2)
        return y


class InPlace(nn.Module):
    """Writes the next state into its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 8, batch_first=True)
        self.register_buffer("h", torch.zeros(1, 2, 8))

    def forward(self, x: Tensor) -> Tensor:
        y, h = self.gru(x, self.h)
        self.h.copy_(h)  # type: ignore[operator]
        result: Tensor = y
        return result


class Lazy(nn.Module):
    """Makes its state at the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 8, batch_first=True)
        self.h = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.h.numel() == 0:
            self.h = torch.zeros(1, x.shape[0], 8)
        y, h = self.gru(x, self.h)
        self.h = h
        result: Tensor = y
        return result


class Nothing(nn.Module):
    """Holds None before the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 8, batch_first=True)
        self.h: Any = torch.jit.Attribute(None, Tensor | None)

    def forward(self, x: Tensor) -> Tensor:
        h = self.h
        if h is None:
            h = torch.zeros(1, x.shape[0], 8)
        y, h = self.gru(x, h)
        self.h = h
        result: Tensor = y
        return result


class SameNames(nn.Module):
    """Its attributes have the names of an argument, and of one that TorchScript has itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 8)
        self.x = torch.zeros(2, 8)
        self._c = torch.zeros(2, 8)

    def forward(self, x: Tensor, gain: float = 2.0) -> Tensor:
        h, c = self.cell(x[:, -1], (self.x, self._c))
        self.x = h
        self._c = c
        result: Tensor = h * gain
        return result


def scripted(network: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        return torch.jit.script(network.eval())


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Held, ["h", "c"]),
        (Two, ["first_h", "first_c", "second_h", "second_c"]),
        (Counting, ["held_h", "held_c"]),
        (Frames, ["frames"]),
        (InPlace, ["h"]),
        (Lazy, ["h"]),
        (Nothing, ["h"]),
        (SameNames, ["x_2", "c"]),
    ],
)
def test_what_a_script_keeps_is_a_state(
    kind: type[nn.Module], names: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = scripted(kind())
    result = export(network, (X,), tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed
    assert [state.input for state in result.contract.states] == names
    assert all("batch" in state.shape for state in result.contract.states)

    check_calls_go_on(result.path, network)


def test_the_module_itself_stays_as_it_was(tmp_path: Path) -> None:
    network = scripted(Held())
    export(network, (X,), tmp_path / "m.onnx")
    assert not network.h.any()
    assert network.h.shape == (1, 2, 8)


class Scaling(Held):
    """Its answer depends on a number that it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y, (h, c) = self.lstm(x, (self.h, self.c))
        self.h = h
        self.c = c
        result: Tensor = y * self.calls
        return result


class Warm(Held):
    def __init__(self) -> None:
        super().__init__()
        self.h = torch.ones(1, 2, 8)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Scaling, "gives something else when it is called again"),
        (Warm, "keeps a state in 'h', which is not zeros now.*Reset it"),
    ],
)
def test_what_cannot_be_a_state_is_refused(
    kind: type[nn.Module], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=reason):
        export(scripted(kind()), (X,), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
