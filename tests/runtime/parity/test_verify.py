"""`stateport.verify`: the promise of the project as one function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import helper

import stateport
from stateport import ContractError, EngineChoice, FileError, InputError
from stateport.parity.vectors import vectors_path
from tests.runtime.conftest import Build


def test_a_right_file_passes(reference: Path) -> None:
    matrix = stateport.verify(reference)

    assert matrix.passed
    assert [str(row.choice) for row in matrix.rows] == ["ort-cpu"]
    assert repr(matrix) == f"<stateport.Matrix PASS: {reference} on ort-cpu passed>"
    (report,) = matrix.reports
    assert all(measurement.passed for measurement in report.measurements)
    passed = len(report.measurements)
    assert repr(report) == (
        f"<stateport.EngineReport PASS: {reference} on ort-cpu, {passed} of {passed} answers "
        "within 8 times the floor>"
    )


def test_a_wrong_file_fails(wrong: Path) -> None:
    matrix = stateport.verify(wrong)

    assert not matrix.passed
    assert repr(matrix).startswith("<stateport.Matrix FAIL")


def test_several_engines_carry_streams_between_them(reference: Path) -> None:
    matrix = stateport.verify(reference, engines=["ort-cpu", EngineChoice("tract")])

    assert matrix.passed
    assert {(c.source, c.target) for c in matrix.carried} == {
        ("ort-cpu", "tract"),
        ("tract", "ort-cpu"),
    }


def test_the_vectors_may_lie_elsewhere(copied: Path, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere.safetensors"
    vectors_path(copied).rename(place)

    with pytest.raises(FileError, match="vectors cannot be used"):
        stateport.verify(copied)
    assert stateport.verify(str(copied), vectors=str(place)).passed


def test_a_bound_of_the_caller_replaces_the_floor(wrong: Path) -> None:
    assert stateport.verify(wrong, atol=1.0).passed
    assert not stateport.verify(wrong, snr=90.0).passed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engines": "ort-gpu"}, "no engine 'ort-gpu'"),
        ({"engines": []}, "No engine is named"),
        ({"engines": [3]}, "3 is no engine"),
        ({"engines": "ort-cpu", "plan": "a.plan.json"}, "either engines or a plan"),
        ({"snr": 20.0, "atol": 1.0}, "exclude one another"),
        ({"atol": float("nan")}, "a number of at least 0"),
    ],
)
def test_wrong_arguments_are_refused(
    reference: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        stateport.verify(reference, **arguments)


def test_a_file_without_a_sound_contract_promises_nothing(build: Build) -> None:
    contract = stateport.Contract(
        inputs=(stateport.ArraySpec("x", "float32", ("batch", 2)),),
        outputs=(stateport.ArraySpec("y", "float32", ("batch", 2)),),
    )
    path = build(contract, [helper.make_node("Identity", ["x"], ["y"])], text="{}")
    with pytest.raises(ContractError):
        stateport.verify(path)
