"""The phases of a command's work, on a clock that does what it is told."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stateport.cli.phases import Phases


class Clock:
    """Shows a time that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def phases(clock: Clock) -> Phases:
    return Phases("/-", "+", clock)


def drawn(phases: Phases, width: int = 60) -> list[str]:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(phases)
    return capture.get().splitlines()


def test_each_phase_has_its_own_time(phases: Phases, clock: Clock) -> None:
    phases("tracing")
    clock.now += 2.25
    phases("recording: 1 of 20")
    clock.now += 0.5
    phases("recording: 2 of 20")
    clock.now += 0.5
    assert drawn(phases) == ["+ tracing  2.2 s", "/ recording: 2 of 20  1.0 s"]
    clock.now += 0.1
    assert drawn(phases)[-1] == "- recording: 2 of 20  1.1 s"


def test_a_phase_that_comes_again_goes_on(phases: Phases, clock: Clock) -> None:
    for text in ("ort-cpu: whole", "tract: whole", "ort-cpu: carried"):
        phases(text)
        clock.now += 1.0
    assert drawn(phases) == ["+ tract  1.0 s", "/ ort-cpu: carried  2.0 s"]


def test_the_summary_says_where_the_time_went(phases: Phases, clock: Clock) -> None:
    phases("tracing")
    clock.now += 2.0
    phases("writing")
    clock.now += 0.05
    phases("verifying: 1 of 2")
    clock.now += 1.0
    phases.end()
    assert phases.summary() == "3.0 s in all: tracing 2.0 s, verifying 1.0 s"
    assert drawn(phases) == ["+ tracing  2.0 s", "+ writing  0.0 s", "+ verifying  1.0 s"]


def test_what_was_quick_needs_no_summary(phases: Phases, clock: Clock) -> None:
    phases("reading")
    clock.now += 0.9
    phases.end()
    assert phases.summary() is None


def test_a_long_name_is_cut_and_its_time_is_not(phases: Phases, clock: Clock) -> None:
    phases("loading " + "x" * 80)
    clock.now += 12.0
    (line,) = drawn(phases, 40)
    assert len(line) <= 40
    assert line.endswith("…  12.0 s")


def test_of_many_phases_the_last_are_drawn(phases: Phases, clock: Clock) -> None:
    for number in range(30):
        phases(f"part {number}")
        clock.now += 1.0
    lines = drawn(phases)
    assert len(lines) == 9
    assert lines[-1] == "/ part 29  1.0 s"
