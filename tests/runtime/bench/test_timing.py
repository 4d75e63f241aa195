"""Timing: what is counted, and in which order."""

from __future__ import annotations

import gc

import pytest

from stateport.bench.timing import Times, measure, ratio


def test_contenders_take_turns() -> None:
    seen: list[str] = []
    times = measure(
        {name: lambda name=name: seen.append(name) for name in "ab"},  # type: ignore[misc]
        rounds=3,
        seconds=1e-9,
    )
    order = [one for one, before in zip(seen, [None, *seen], strict=False) if one != before]
    assert "".join(order) == "ab" * 4, "once to warm up, and once in each round"
    assert {len(taken.rounds) for taken in times.values()} == {3}
    assert all(taken.singles for taken in times.values())


def test_the_collector_is_as_it_was_also_after_an_error() -> None:
    def fails() -> None:
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):  # noqa: PT011
            measure({"a": fails}, rounds=1)
        assert gc.isenabled()


def test_figures_are_medians_and_quartiles() -> None:
    times = Times((1.0, 2.0, 3.0, 4.0, 100.0), tuple(float(n) for n in range(101)))
    assert times.median == 3.0
    assert times.quartiles == (2.0, 4.0)
    assert times.latency(0.99) == pytest.approx(99.0)


def test_ratios_are_taken_within_each_round() -> None:
    slow, quick = Times((2.0, 20.0, 200.0), ()), Times((1.0, 10.0, 100.0), ())
    found = ratio(slow, quick)
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)
    assert str(found) == "2.000 (2.000 to 2.000)"


def test_progress_is_told() -> None:
    told: list[float] = []
    measure({"a": lambda: None}, rounds=4, seconds=1e-9, progress=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]
