"""Networks that do otherwise at sizes that nothing is run at: refused, or kept from them."""

# ruff: noqa: ARG005  # networks are told apart by small functions of the same arguments

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport import InputError
from stateport.parity.vectors import Vectors
from stateport_exporter import ExportError, export
from stateport_exporter.capture import FixedTimeError
from stateport_exporter.loops import fold
from tests.exporter.sizes.networks import After, Comparing, Looping, X, example_of


def _at_most(size: int, most: int) -> bool:
    assert size <= most
    return True


#: What forward does behind its GRU -> the size at which the refusal says it does otherwise.
OTHERWISE: dict[str, tuple[After, str]] = {
    "longer": (lambda _, x, y: y * 2 if x.size(1) > 1000 else y, "time 1001"),
    "more rows": (lambda _, x, y: y * 2 if x.size(0) > 64 else y, "batch 65, time 7"),
    "a slice": (lambda _, x, y: y[:, :600], "time 601"),
    "one length": (lambda _, x, y: y * 2 if x.size(1) == 600 else y, "time 600"),
    "behind another": (
        lambda _, x, y: (y * 2 if x.size(1) > 2000 else y) if x.size(1) > 1000 else y,
        "time 2001",
    ),
    "of both": (lambda _, x, y: y * 2 if x.size(0) * x.size(1) == 77 else y, "batch 77, time 1"),
    "a name": (lambda net, x, y: y * getattr(net, f"k{x.size(1)}", 1.0), "time 600"),
}


@pytest.mark.patterns
@pytest.mark.parametrize("name", OTHERWISE)
def test_a_network_that_does_otherwise_beyond_is_refused(name: str, tmp_path: Path) -> None:
    after, sizes = OTHERWISE[name]
    network = Comparing(after)
    network.k600 = 3.0  # type: ignore[assignment]
    with pytest.raises(ExportError, match=rf"otherwise at .*{sizes} .*test_beyond.py:\d+"):
        export(network, (X,), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


#: What fails beyond a length, or decides by one that nobody can try -> the largest.
LIMITED: dict[str, tuple[After, dict[str, int]]] = {
    "a table": (lambda net, x, y: y + net.table[: x.size(1)], {"time": 1024}),
    "an assertion": (lambda _, x, y: y if _at_most(x.size(1), 1000) else None, {"time": 1000}),
    "rows": (lambda _, x, y: y if _at_most(x.size(0), 128) else None, {"batch": 128}),
    "far": (lambda _, x, y: y * 2 if x.size(1) > 100_000 else y, {"time": 100_000}),
}


@pytest.mark.patterns
@pytest.mark.parametrize("name", LIMITED)
def test_what_ends_at_a_size_has_it_in_its_contract(name: str, tmp_path: Path) -> None:
    after, limits = LIMITED[name]
    result = export(Comparing(after), (X,), tmp_path / "m.onnx")
    assert dict(result.contract.limits) == limits
    assert Vectors.load(result.vectors).contract == result.contract
    model = stateport.load(result.path)
    [(axis, most)] = limits.items()
    sizes = {"batch": 1, "time": 1, axis: most}
    model(np.zeros((sizes["batch"], sizes["time"], 5), np.float32))
    sizes[axis] += 1
    with pytest.raises(InputError, match=f"{axis!r} is {most + 1} in this call; .*at most {most}"):
        model(np.zeros((sizes["batch"], sizes["time"], 5), np.float32))


@pytest.mark.patterns
def test_a_comparison_that_changes_nothing_is_proven(tmp_path: Path) -> None:
    """A long sequence takes another way here, with the same result."""

    def after(net: Any, x: Tensor, y: Tensor) -> Tensor:
        if x.size(1) <= 1000:
            return y
        first, state = net.gru(x[:, :1000])
        return torch.cat([first, net.gru(x[:, 1000:], state)[0]], 1)

    result = export(Comparing(after), (X,), tmp_path / "m.onnx")
    lengths = {sum(case.chunks) for case in Vectors.load(result.vectors).cases}
    assert lengths >= {1000, 1001}
    assert result.contract.limits == ()


@pytest.mark.patterns
def test_an_ordinary_network_has_no_further_cases(tmp_path: Path) -> None:
    result = export(Comparing(lambda net, x, y: y[:, 1:]), (X,), tmp_path / "m.onnx")
    whole = {sum(c.chunks) for c in Vectors.load(result.vectors).cases if len(c.chunks) == 1}
    assert whole <= {2, 7, 64, 513}
    assert result.contract.limits == ()


#: What a step of a loop does, and the line that the refusal names, if one is seen to decide.
STEPS: dict[str, tuple[Any, str]] = {
    "a step": (lambda net, t, h, x: h * 2 if t == 600 else h, "t == 600"),
    "a product": (lambda net, t, h, x: h * 2 if 4 * t > net.limit * net.scale else h, "4 \\* t >"),
    "one of a set": (lambda net, t, h, x: h * 2 if t in net.special else h, ""),
    "a list": (lambda net, t, h, x: h * net.gains[t], ""),
    "the length": (lambda net, t, h, x: h * 2 if x.size(1) > 5000 else h, "x.size"),
    "a float": (lambda net, t, h, x: h * 2 if float(x.size(1)) ** 0.5 > 40 else h, ""),
}


def _folded(network: nn.Module) -> Any:
    refusal = FixedTimeError("it fixes time")
    return fold(network.eval(), "forward", example_of(network), refusal)


@pytest.mark.patterns
@pytest.mark.parametrize("name", STEPS)
def test_a_loop_that_does_otherwise_later_is_refused(name: str) -> None:
    step, line = STEPS[name]
    with pytest.raises(ExportError, match=f"does not do the same in every step.*{line}"):
        _folded(Looping(step))


@pytest.mark.patterns
def test_a_loop_over_a_table_ends_with_it() -> None:
    assert _folded(Looping(lambda net, t, h, x: h + net.table[t])).limits == {"time": 1024}
    assert _folded(Looping(lambda net, t, h, x: h)).limits == {}


@pytest.mark.patterns
def test_a_loop_that_decides_by_values_is_refused() -> None:
    with pytest.raises(FixedTimeError, match="it fixes time"):
        _folded(Looping(lambda net, t, h, x: h * 2 if h.sum() > 3 else h))


class Amplifying(nn.Module):
    """The logistic map: any two computations of it part after some steps."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.full((1,), 3.9))

    def forward(self, x: Tensor) -> Tensor:
        h, steps = torch.sigmoid(x[:, 0]), []
        for t in range(x.size(1)):
            h = self.rate * h * (1 - h) + 0 * x[:, t]
            steps.append(h)
        return torch.stack(steps, 1)


@pytest.mark.patterns
def test_a_loop_that_amplifies_rounding_is_no_other_loop() -> None:
    assert _folded(Amplifying()).limits == {}


class Told(nn.Module):
    """Takes a number besides its input."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 6, batch_first=True)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        y: Tensor = self.gru(x)[0]
        return y * steps


def test_an_argument_that_changes_with_the_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'steps' is 7, and 8 when time changes"):
        export(Told(), lambda batch, time: (torch.randn(batch, time, 5), time), tmp_path / "m.onnx")
