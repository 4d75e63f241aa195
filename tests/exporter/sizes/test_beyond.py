"""Networks that do otherwise at sizes that nothing is run at: refused, or kept from them."""

# ruff: noqa: ARG005  # networks are told apart by small functions of the same arguments

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import stateport
from stateport import InputError
from stateport.parity.vectors import Vectors
from stateport_exporter import ExportError, Spec, export
from stateport_exporter.capture.refusals import FixedTimeError
from stateport_exporter.loops import roll_loops
from stateport_exporter.network.example import Example
from stateport_exporter.sizes.beyond import check_loops
from stateport_exporter.sizes.comparisons import STEP, compared, turns
from stateport_exporter.sizes.tables import ends_of_tables

X = Spec("float32", "batch", "time", 3)

After = Callable[[Any, Tensor, Tensor], Any]


class Comparing(nn.Module):
    """Does something with its input and the result of a GRU."""

    def __init__(self, after: After) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)
        self.after = after
        self.longest, self.scale = 600, 4
        self.positions = nn.Embedding(700, 4)
        self.register_buffer("table", torch.randn(5000, 4))

    def forward(self, x: Tensor) -> Any:
        return self.after(self, x, self.gru(x)[0])


def _positions(net: Any, x: Tensor, y: Tensor) -> Any:
    return y + net.positions(torch.arange(x.size(1)))


def _at_most(size: int, most: int) -> bool:
    assert size <= most
    return True


def _parts(_: Any, x: Tensor, y: Tensor) -> Any:
    if x.size(1) > 1000:
        return y * 2 if x.size(1) > 2000 else y
    return y


#: What forward does behind its GRU -> the sizes at which it turns.
TURNING: dict[str, tuple[After, set[tuple[str, int]]]] = {
    "longer": (lambda _, x, y: y * 2 if x.size(1) > 1000 else y, {("time", 1001)}),
    "an attribute": (
        lambda net, x, y: y * 2 if x.shape[1] > net.longest + 10**3 else y,
        {("time", 1601)},
    ),
    "a product": (lambda net, x, y: y * 2 if 2 * x.size(1) >= 4801 else y, {("time", 2401)}),
    "a root": (lambda _, x, y: y * 2 if x.size(1) ** 0.5 > 40 else y, {("time", 1601)}),
    "one length": (lambda _, x, y: y * 2 if x.size(1) == 600 else y, {("time", 600)}),
    "not one length": (lambda _, x, y: y if x.size(1) != 600 else y * 2, {("time", 600)}),
    "a remainder": (lambda _, x, y: y * 2 if x.size(1) % 977 == 0 else y, {("time", 977)}),
    "more rows": (lambda _, x, y: y * 2 if x.size(0) > 32 else y, {("batch", 33)}),
    "a slice": (lambda _, x, y: y[:, :1000], {("time", 1000)}),
    "the end": (lambda _, x, y: y[:, -1000:], {("time", 1000)}),
    "a part of a table": (lambda net, x, y: y + net.table[: x.size(1)], {("time", 5001)}),
    "the smaller": (lambda _, x, y: y / min(x.size(1), 1000), {("time", 1001)}),
    "far": (lambda _, x, y: y * 2 if x.size(1) > 10**6 else y, {("time", 10**6 + 1)}),
    "a limit": (lambda _, x, y: y if _at_most(x.size(1), 1000) else None, {("time", 1001)}),
    "tensors": (
        lambda _, x, y: torch.where(torch.arange(x.size(1))[:, None] > 1000, y * 2, y),
        set(),
    ),
    "nothing": (lambda _, x, y: y[:, 1:], set()),
    "an even length": (lambda _, x, y: y * 2 if x.size(1) % 2 == 0 else y, set()),
    "padding": (lambda _, x, y: functional.pad(y, (0, 0, 0, -x.size(1) % 8)), set()),
}


def _example(network: nn.Module) -> Example:
    return Example(network.forward, (X,))


@pytest.mark.parametrize("name", TURNING)
def test_where_comparisons_turn(name: str) -> None:
    after, expected = TURNING[name]
    network = Comparing(after).eval()
    example = _example(network)
    tried = {"batch": (1, 2, 3, 5), "time": (1, 2, 7, 8, 64, 513)}
    found = [
        turn
        for comparison in compared(network, "forward", example, example.sizes)
        for turn in turns(comparison, tried)
    ]
    assert {(turn.axis, turn.size) for turn in found} == expected
    assert all(turn.line is not None for turn in found)


def test_a_table_of_positions_ends() -> None:
    network = Comparing(_positions)
    [end] = ends_of_tables(network, "forward", _example(network))
    assert [bool(end.holds({"time": time})) for time in (700, 701)] == [True, False]
    none = Comparing(lambda net, _, y: y + net.positions(torch.zeros(1, dtype=torch.int64)))
    assert ends_of_tables(none, "forward", _example(none)) == []


#: What forward does -> what the refusal says.
REFUSED: dict[str, tuple[After, str]] = {
    "a slice": (lambda _, x, y: y[:, :1000], r"time 1001 \(test_beyond.py:\d+"),
}


@pytest.mark.patterns
@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_does_otherwise_beyond_is_refused(name: str, tmp_path: Path) -> None:
    after, said = REFUSED[name]
    with pytest.raises(ExportError, match=f"PyTorch's answers.*{said}|differently at {said}"):
        export(Comparing(after), (X,), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


#: What forward does -> the largest size of an axis.
LIMITED: dict[str, tuple[After, tuple[str, int]]] = {
    "positions": (_positions, ("time", 700)),
    "a part of a table": (lambda net, x, y: y + net.table[: x.size(1)], ("time", 5000)),
    "an assertion": (lambda _, x, y: y if _at_most(x.size(1), 1000) else None, ("time", 1000)),
    "rows": (lambda _, x, y: y if _at_most(x.size(0), 128) else None, ("batch", 128)),
    "far": (lambda _, x, y: y * 2 if x.size(1) > 100_000 else y, ("time", 100_000)),
    "longer": (lambda _, x, y: y * 2 if x.size(1) > 1000 else y, ("time", 1000)),
    "more rows": (lambda _, x, y: y * 2 if x.size(0) > 32 else y, ("batch", 32)),
    "behind another": (_parts, ("time", 1000)),
}


@pytest.mark.patterns
@pytest.mark.parametrize("name", LIMITED)
def test_what_ends_at_a_size_has_it_in_its_contract(name: str, tmp_path: Path) -> None:
    after, (axis, most) = LIMITED[name]
    result = export(Comparing(after), (X,), tmp_path / "m.onnx")
    assert result.contract.limits == ((axis, most),)
    model = stateport.load(result.path)
    assert model.contract.limits == ((axis, most),)
    sizes = {"batch": 1, "time": 1, axis: most}
    model(np.zeros((sizes["batch"], sizes["time"], 3), np.float32))
    sizes[axis] += 1
    with pytest.raises(InputError, match=f"{axis!r} is {most + 1} in this call; .*at most {most}"):
        model(np.zeros((sizes["batch"], sizes["time"], 3), np.float32))


@pytest.mark.patterns
def test_a_comparison_that_changes_nothing_is_proven(tmp_path: Path) -> None:
    """A long sequence takes another way here, with the same result."""

    def after(_: Any, x: Tensor, y: Tensor) -> Tensor:
        return y + y if x.size(1) > 1000 else y * 2

    result = export(Comparing(after), (X,), tmp_path / "m.onnx")
    lengths = {sum(case.chunks) for case in Vectors.load(result.vectors).cases}
    assert lengths >= {1001, 1002}
    assert result.contract.limits == ()


Step = Callable[[Any, Any, Tensor, Tensor], Any]


class Looping(nn.Module):
    """A loop over time; `step` takes the network, the number of the step, the state and x."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)
        self.step = step
        self.longest, self.scale = 600, 4
        self.special = {2000, 2001}
        self.gains = [1.0] * 100 + [2.0] * 10**4
        self.register_buffer("table", torch.randn(1024, 4))

    def forward(self, x: Tensor) -> Tensor:
        h, steps = x.new_zeros(x.size(0), 4), []
        for t in range(x.size(1)):
            h = self.step(self, t, self.cell(x[:, t], h), x)
            steps.append(h)
        return torch.stack(steps, 1)


class While(Looping):
    """The same with its own counter."""

    def forward(self, x: Tensor) -> Tensor:
        h, steps, t = x.new_zeros(x.size(0), 4), [], 0
        while t < x.size(1):
            h = self.step(self, t, self.cell(x[:, t], h), x)
            steps.append(h)
            t += 1
        return torch.stack(steps, 1)


#: What a step of a loop does, and what the refusal names.
STEPS: dict[str, tuple[Step, str]] = {
    "later": (lambda net, t, h, x: h * 2 if t > 600 else h, r"time 602 .*t > 600"),
    "a step": (lambda net, t, h, x: h * 2 if t == 600 else h, r"time 601 .*t == 600"),
    "a product": (
        lambda net, t, h, x: h * 2 if t == net.longest * net.scale + 1 else h,
        r"time 2402 .*t == net\.longest",
    ),
    "a remainder": (lambda net, t, h, x: h * 2 if t % 977 == 976 else h, r"time 977 .*t % 977"),
    "one of a set": (lambda net, t, h, x: h * 2 if t in net.special else h, "time 4097"),
    "a list": (lambda net, t, h, x: h * net.gains[t], "time 4097"),
    "the length": (lambda net, t, h, x: h * 2 if x.size(1) > 900 else h, r"time 901 .*x\.size"),
    "a whole number": (lambda net, t, h, x: h * 2 if int(x.size(1)) > 900 else h, "time 4097"),
}


def _checked(network: nn.Module) -> Any:
    example = _example(network.eval())
    folded = roll_loops(network, "forward", example, FixedTimeError("it fixes time"))
    return check_loops(network, "forward", folded, example)


@pytest.mark.patterns
@pytest.mark.parametrize("name", STEPS)
def test_a_loop_that_does_otherwise_later_is_refused(name: str) -> None:
    step, said = STEPS[name]
    with pytest.raises(ExportError, match=f"does not do the same in every step: at {said}"):
        _checked(Looping(step))


@pytest.mark.patterns
@pytest.mark.parametrize("name", ["later", "a product"])
def test_a_loop_that_counts_by_itself_is_refused(name: str) -> None:
    with pytest.raises(ExportError, match="does not do the same in every step: at time"):
        _checked(While(STEPS[name][0]))


@pytest.mark.patterns
def test_a_loop_ends_with_a_table_or_where_nobody_can_try() -> None:
    assert _checked(Looping(lambda net, t, h, x: h + net.table[t])).limits == {"time": 1024}
    assert _checked(Looping(lambda net, t, h, x: h * 2 if t > 9999 else h)).limits == {
        "time": 10000
    }
    assert _checked(Looping(lambda net, t, h, x: h)).limits == {}
    assert _checked(While(lambda net, t, h, x: h)).limits == {}


#: A step that changes after more steps than can be tried, and the line that says so; None where the
#: size of a call is compared, which a stream has not.
LATE: dict[str, tuple[Step, str | None]] = {
    "a ramp": (lambda net, t, h, x: h * min((t + 1) / 5000, 1.0), r"min\(\(t \+ 1\)"),
    "a quotient": (lambda net, t, h, x: h * (0.0 if t // 4500 else 1.0), "t // 4500"),
    "a comparison": (lambda net, t, h, x: h * 2 if t > 9999 else h, "t > 9999"),
    "the size of a call": (lambda net, t, h, x: h * 2 if x.size(1) > 9999 else h, None),
}


@pytest.mark.patterns
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.thorough if name == "the size of a call" else ())
        for name in LATE
    ],
)
def test_a_stream_does_not_run_past_what_can_be_tried(name: str, tmp_path: Path) -> None:
    step, line = LATE[name]
    net = Looping(step).eval()
    contract = export(net, Spec("float32", "batch", "time", 3), tmp_path / "m.onnx").contract
    assert dict(contract.limits)["time"] >= 4500
    assert contract.streaming.ok == (line is None)
    if line is not None:
        reason = rf"its loop may do something else from step \d+ on \(test_beyond.*{line}"
        assert re.match(reason, contract.streaming.reason or "")


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
    assert _checked(Amplifying()).limits == {}


def test_steps_of_a_loop_are_compared() -> None:
    network = Looping(STEPS["later"][0]).eval()
    example = _example(network)
    asked = compared(network, "forward", example, {**example.sizes, "time": 3})
    tried = {"batch": (1, 3), "time": (1, 2, 3, 513), STEP: range(13)}
    found = [turn for one in asked for turn in turns(one, tried)]
    assert {(turn.axis, turn.size) for turn in found} == {(STEP, 601)}
