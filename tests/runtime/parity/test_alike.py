"""All engines fail alike: then the file is at fault, and every form of the report says so first."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, nan

import pytest

from stateport.engines.choice import EngineChoice
from stateport.parity.engine_report import EngineReport, Measurement
from stateport.parity.matrix import EngineVerdict, Matrix
from stateport.parity.reports import document, github, junit, markdown, page
from stateport.parity.reports.alike import common_fault


def measured(error: float | None, *, output: str = "y", problem: str | None = None) -> Measurement:
    """An output that may be off by 1e-6."""
    share = None if error is None else error / 1e-6
    return Measurement("whole 1x7, from zeros", output, 3, error, 1e-7, share, problem)


def row(name: str, *measurements: Measurement) -> EngineVerdict:
    report = EngineReport(
        "m.onnx", name, "1.0", "float64", "8 times the floor", "float32", 7, {}, {}, measurements
    )
    return EngineVerdict(EngineChoice(name), report)


def error_row(name: str) -> EngineVerdict:
    return EngineVerdict(EngineChoice(name), problem="It cannot load the file.")


def absent(name: str) -> EngineVerdict:
    return EngineVerdict(EngineChoice(name), problem="It is not installed.", available=False)


GOOD = measured(1e-7, output="hn")


def matrix(*rows: EngineVerdict) -> Matrix:
    return Matrix("m.onnx", rows)


@pytest.mark.parametrize(
    "rows",
    [
        (row("a", measured(1e-3), GOOD), row("b", measured(1.1e-3), GOOD)),
        (row("a", measured(1e-3), GOOD), row("b", measured(1e-3), GOOD), absent("c")),
        (row("a", measured(1e-3), GOOD), row("b", measured(1e-3), GOOD), error_row("c")),
        # Near its bound, an output is off on one engine and not on the other.
        (
            row("a", measured(1e-3), measured(1.1e-6, output="hn")),
            row("b", measured(1e-3), measured(0.9e-6, output="hn")),
        ),
        (row("a", measured(inf)), row("b", measured(nan))),
        (
            row("a", measured(None, problem="(1, 9) came")),
            row("b", measured(None, problem="(1, 9) came")),
        ),
    ],
)
def test_engines_that_are_off_by_as_much_are_not_at_fault(rows: tuple[EngineVerdict, ...]) -> None:
    said = common_fault(matrix(*rows))
    assert said is not None
    assert said.startswith("Both engines that were measured give the same wrong answers, so the")
    assert "rather than an engine" in said
    assert "--locate" in said


@pytest.mark.parametrize(
    "rows",
    [
        (row("a", GOOD), row("b", GOOD)),
        (row("a", measured(1e-3)), row("b", measured(1e-7))),  # one passes
        (row("a", measured(1e-3)), row("b", measured(1e-2))),
        (row("a", measured(1e-3), GOOD), row("b", measured(1e-7), measured(1e-3, output="hn"))),
        (row("a", measured(1.1e-6)), row("b", measured(1.2e-6))),  # near the bound
        (row("a", measured(inf)), row("b", measured(1.0))),
        (
            row("a", measured(None, problem="(1, 9) came")),
            row("b", measured(None, problem="It failed.")),
        ),
        (row("a", measured(1e-3)),),
        (row("a", measured(1e-3)), absent("b")),
        (row("a", measured(1e-3)), error_row("b")),
        (error_row("a"),),
    ],
)
def test_otherwise_an_engine_may_be_at_fault(rows: tuple[EngineVerdict, ...]) -> None:
    assert common_fault(matrix(*rows)) is None


def test_a_file_that_no_engine_runs_is_probably_at_fault() -> None:
    said = common_fault(matrix(error_row("a"), error_row("b"), absent("c")))
    assert said is not None
    assert said.startswith(
        "Neither of the 2 engines runs the file, so the file is probably at fault"
    )


def test_every_form_says_it_first(failing: Matrix) -> None:
    """The fixture is a real file with a wrong weight, on real engines."""
    said = common_fault(failing)
    assert said is not None
    assert document.document(failing)["common_fault"] == said
    lines = markdown.render(failing).splitlines()
    assert lines[0].startswith("## FAIL")
    assert lines[2].startswith("**Both engines that were measured give the same wrong answers")
    html = page.render(failing)
    assert html.index("give the same wrong answers") < html.index("<h2>Engines")
    assert said in next(github.commands(failing))
    assert 'name="common fault"' in junit.render(failing)


def test_a_good_report_does_not_have_it(passing: Matrix) -> None:
    assert json.loads(document.render(passing))["common_fault"] is None
    assert "at fault" not in markdown.render(passing) + page.render(passing)


def test_one_engine_alone_tells_nothing(failing: Matrix) -> None:
    assert common_fault(replace(failing, rows=failing.rows[:1])) is None
