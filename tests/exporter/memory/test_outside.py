"""Values outside of a network, and of its first call alone, that change later results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import ExportError, Spec, export

X = Spec("float32", "batch", "time", 3)
KEPT: dict[str, Any] = {}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)
        self.kept: Any = None

    def hidden(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.gru(x)[0]
        return hidden


class FirstLength(Net):
    def forward(self, x: Tensor) -> Tensor:
        KEPT.setdefault("length", float(x.shape[1]))
        scaled: Tensor = self.hidden(x) * KEPT["length"]
        return scaled


class FirstMean(Net):
    mean: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        if FirstMean.mean is None:
            FirstMean.mean = x.mean().item()
        return self.hidden(x) - FirstMean.mean


class WarmUp(Net):
    def forward(self, x: Tensor) -> Tensor:
        is_first = "warm" not in KEPT
        KEPT["warm"] = True
        return self.hidden(x) * (2 if is_first else 1)


class LastState(Net):
    def forward(self, x: Tensor) -> Tensor:
        state = KEPT.get("state")
        fits = state is not None and state.shape[1] == x.shape[0]
        y, KEPT["state"] = self.gru(x, state if fits else None)
        hidden: Tensor = y
        return hidden


class OwnFirstMean(Net):
    """The same in an attribute of its own."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = x.mean().detach()
        hidden: Tensor = self.hidden(x) - self.kept
        return hidden


def in_closure() -> nn.Module:
    seen: list[float] = []

    class Closure(Net):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(1.0)
            return self.hidden(x) * float(len(seen))

    return Closure()


@pytest.fixture(autouse=True)
def fresh() -> None:
    KEPT.clear()
    FirstMean.mean = None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (FirstLength, r"KEPT in .*outside of the network"),
        (FirstMean, r"FirstMean\.mean, which an earlier call changes outside"),
        (WarmUp, r"KEPT in .*outside of the network"),
        (LastState, r"KEPT in .*outside of the network"),
        (OwnFirstMean, r"depend on 'kept', which changes from call to call"),
        (in_closure, r"outside of the network|changes from call to call"),
    ],
)
def test_it_is_refused_with_the_name(
    tmp_path: Path, make: Callable[[], nn.Module], says: str
) -> None:
    with pytest.raises(ExportError, match=says):
        export(make(), X, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    assert KEPT == {}
    assert FirstMean.mean is None


class Cache(Net):
    """Computes a constant once; every call would compute the same."""

    def forward(self, x: Tensor) -> Tensor:
        if "scale" not in KEPT:
            KEPT["scale"] = torch.linspace(1, 2, 4)
        scaled: Tensor = self.hidden(x) * KEPT["scale"]
        return scaled


def test_a_cache_of_constants_does_no_harm(tmp_path: Path) -> None:
    assert export(Cache(), X, tmp_path / "m.onnx").contract.streaming.ok
    assert KEPT == {}


class Log(Net):
    def forward(self, x: Tensor) -> Tensor:
        KEPT["calls"] = KEPT.get("calls", 0) + 1
        return self.hidden(x)


def test_what_is_only_written_does_no_harm(tmp_path: Path) -> None:
    assert export(Log(), X, tmp_path / "m.onnx").contract.streaming.ok
