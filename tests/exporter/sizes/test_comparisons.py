"""Which sizes forward compares, and from which size on a comparison comes out otherwise."""

# ruff: noqa: ARG005  # networks are told apart by small functions of the same arguments

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sympy
import torch

from stateport_exporter.sizes.comparisons import (
    Comparison,
    Turn,
    comparison_of,
    differs,
    switches,
    turned,
    turns,
)
from stateport_exporter.sizes.constants import mentioned
from stateport_exporter.sizes.symbolic import compared
from tests.exporter.sizes.networks import After, Comparing, Looping, example_of

TRIED = {"batch": (1, 2, 5), "time": (1, 2, 7, 64, 513)}

#: What forward does behind the GRU -> the sizes that show that it may do otherwise.
TURNING: dict[str, tuple[After, list[dict[str, int]]]] = {
    "longer": (lambda _, x, y: y * 2 if x.size(1) > 1000 else y, [{"time": 1001}]),
    "far": (lambda _, x, y: y * 2 if x.size(1) > 100_000 else y, [{"time": 100_001}]),
    "rows": (lambda _, x, y: y * 2 if x.shape[0] >= 64 else y, [{"batch": 64}]),
    "one length": (
        lambda _, x, y: y * 2 if x.size(1) == 600 else y,
        [{"time": 600}, {"time": 601}],
    ),
    "between": (
        lambda _, x, y: y * 2 if 700 < x.size(1) < 800 else y,
        [{"time": 701}],  # behind the first comparison stands the other
    ),
    "remainder": (
        lambda _, x, y: y * 2 if x.size(1) % 977 == 0 else y,
        [{"time": 977}, {"time": 978}],
    ),
    "quotient": (lambda _, x, y: y * 2 if x.size(1) // 600 else y, [{"time": 600}]),
    "share": (lambda _, x, y: y * 2 if x.size(1) / 3 > 400.5 else y, [{"time": 1202}]),
    "slice": (lambda _, x, y: y[:, :600], [{"time": 600}]),
    "last ones": (lambda _, x, y: y[:, -600:], [{"time": 600}]),
    "smaller": (lambda _, x, y: y[:, : min(x.size(1), 700)], [{"time": 701}]),
    "parts": (lambda _, x, y: torch.cat(torch.split(y, 600, 1), 1), [{"time": 601}]),
    "rounds": (lambda _, x, y: sum(y * 0 for _ in range(x.size(1) // 600)) + y, [{"time": 600}]),
    "table": (lambda net, x, y: y + net.table[: x.size(1)], [{"time": 1025}]),
    "assert": (lambda _, x, y: y if _at_most(x.size(1), 1000) else None, [{"time": 1001}]),
    "stride": (lambda _, x, y: y * 2 if x.stride(0) > 6000 else y, [{"time": 1201}]),
    "behind a stride": (
        lambda net, x, y: y * 2 if net.conv(x.mT).size(2) > 400 else y,
        [{"time": 801}],
    ),
}


def _at_most(size: int, most: int) -> bool:
    assert size <= most
    return True


def _turns(comparisons: list[Comparison]) -> list[Turn]:
    return [turn for comparison in comparisons for turn in turns(comparison, TRIED)]


@pytest.mark.parametrize("name", TURNING)
def test_the_sizes_at_which_forward_may_do_otherwise_are_seen(name: str) -> None:
    after, expected = TURNING[name]
    network = Comparing(after).eval()
    example = example_of(network)
    seen = _turns(compared(network, "forward", example, example.sizes))
    sizes = [dict(turn.sizes) for turn in seen]
    assert [one for one in expected if one not in sizes] == []
    lines = {turn.line for turn in seen}
    assert all(line is not None and line.file == __file__ for line in lines)


@pytest.mark.parametrize(
    "after",
    [
        lambda _, x, y: y[:, 1:],
        lambda _, x, y: y.reshape(x.size(0), x.size(1), -1),
        lambda _, x, y: y * torch.where(torch.arange(x.size(1)) < 1000, 1.0, 2.0)[:, None],
        lambda _, x, y: y / math.sqrt(y.size(2)),
        lambda net, x, y: y + net.conv(x.mT).sum(),
        lambda _, x, y: torch.softmax(y @ y.mT, -1),
        lambda _, x, y: torch.nn.functional.pad(y, (0, 0, 1, 0))[:, :-1],
    ],
)
def test_what_holds_at_all_sizes_needs_no_more_of_them(after: After) -> None:
    network = Comparing(after).eval()
    example = example_of(network)
    assert _turns(compared(network, "forward", example, example.sizes)) == []


def test_sizes_of_two_axes_are_compared_together() -> None:
    network = Comparing(lambda _, x, y: y * 2 if x.size(0) * x.size(1) == 77 else y).eval()
    example = example_of(network)
    sizes = [dict(t.sizes) for t in _turns(compared(network, "forward", example, example.sizes))]
    assert {"batch": 1, "time": 77} in sizes
    assert {"batch": 11, "time": 7} in sizes


def test_behind_a_turn_stand_other_comparisons() -> None:
    def after(_: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (y * 2 if x.size(1) > 2000 else y) if x.size(1) > 1000 else y

    network = Comparing(after).eval()
    example = example_of(network)
    at = {"usual": example.sizes, "longer": {**example.sizes, "time": 1001}}
    sizes = {
        name: [dict(t.sizes) for t in _turns(compared(network, "forward", example, each))]
        for name, each in at.items()
    }
    assert sizes["usual"] == [{"time": 1001}]
    assert {"time": 2001} in sizes["longer"]


@pytest.mark.parametrize(
    ("step", "time"),
    [
        (lambda net, t, h, x: h * 2 if t == 600 else h, 601),
        (lambda net, t, h, x: h * 2 if 4 * t > net.limit * net.scale else h, 3002),
        (lambda net, t, h, x: h + net.table[min(t, 900)], 902),
        (lambda net, t, h, x: h * 2 if t % 700 == 699 else h, 700),
        (lambda net, t, h, x: h * 2 if x.size(1) - t > 800 else h, 801),
    ],
)
def test_the_number_of_a_step_is_compared_too(step: Any, time: int) -> None:
    network = Looping(step).eval()
    example = example_of(network)
    lengths = {t.size for t in _turns(compared(network, "forward", example, example.sizes))}
    assert lengths & {time, time + 1}
    assert "range" not in step.__globals__  # nothing of it is left behind


def test_numbers_that_the_code_mentions() -> None:
    network = Looping(lambda net, t, h, x: h * net.gains[t] if t in net.special else h)
    numbers = mentioned(network)
    assert {333, 4444, 1100} <= {*numbers}  # the set's, and how long the list is
    assert 300 not in numbers  # nothing names it
    assert mentioned(Comparing(lambda net, x, y: y * net.limit)) == [300]


def test_a_comparison_of_a_foreign_size_is_none() -> None:
    symbol, other = sympy.symbols("s0 s1")
    assert comparison_of(symbol > 3, True, {other: "time"}) is None
    assert comparison_of(sympy.Function("unknown")(symbol) > 3, True, {symbol: "time"}) is None
    assert comparison_of(symbol, 7, {symbol: "time"}) is None


def test_which_lines_decide_otherwise() -> None:
    symbol = sympy.symbols("s0")
    comparison = comparison_of(symbol > 100, False, {symbol: "time"})
    assert comparison is not None
    assert differs(comparison, {"time": 101}, {"time": 7})
    assert not differs(comparison, {"time": 100}, {"time": 7})
    assert turned([comparison], {"time": 7}, [(1, 8)], {"time": 200}) == []  # no line is known
    assert [t.size for t in turns(comparison, {"time": (1, 7)})] == [101]
    assert list(turns(comparison, {"time": (1, 7, 200)})) == []
    larger = next(switches(sympy.Max(symbol, 600)))
    assert bool(larger.subs(symbol, 601)) != bool(larger.subs(symbol, 599))


def test_a_turn_beyond_the_grid_is_exact() -> None:
    symbol = sympy.symbols("s0")
    comparison = comparison_of(3 * symbol >= 10**9, False, {symbol: "time"})
    assert comparison is not None
    [turn] = turns(comparison, TRIED)
    assert turn.size == math.ceil(10**9 / 3)
    assert np.asarray(comparison.holds({"time": float(turn.size)}))
