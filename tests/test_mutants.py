"""A part of the mutation suite (`make mutants` runs all): every fault in one network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.mutants.__main__ import Mutant, located, missed, mutants_of, report
from benchmarks.mutants.faults import FAULTS
from benchmarks.mutants.judge import judge_all
from benchmarks.mutants.networks import NETWORKS
from stateport.parity.vectors import Vectors, vectors_path

#: Engines that compute what others do in a second of a test.
ENGINES = ("ort-cpu", "onnx-reference")


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> list[Mutant]:
    made = list(mutants_of(["LSTM"], tmp_path_factory.mktemp("mutants")))
    for engine in ENGINES:
        good = made[0].path.parent.with_suffix(".onnx")
        told = judge_all(engine, good, [mutant.path for mutant in made])
        for mutant, outcome in zip(made, told, strict=True):
            mutant.outcomes[engine] = outcome
    return made


@pytest.mark.patterns
def test_none_is_missed(mutants: list[Mutant]) -> None:
    assert len(mutants) > 130
    assert missed(mutants) == []


@pytest.mark.patterns
def test_nearly_all_are_located(mutants: list[Mutant]) -> None:
    assert located(mutants) >= 0.95


@pytest.mark.patterns
def test_they_are_counted(mutants: list[Mutant]) -> None:
    text = report(mutants, ENGINES)
    assert f"| **all** | {len(mutants)} |" in text
    assert "missed" not in text


def test_there_are_as_many_as_were_promised() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 60
    assert len(NETWORKS) >= 5


def test_one_that_the_check_does_not_see_is_told(tmp_path: Path) -> None:
    """With a single step from zeros as all that is checked, a state that is ignored goes unseen."""
    made = {mutant.fault.name: mutant for mutant in mutants_of(["LSTM"], tmp_path)}
    mutant = made["all states ignored"]
    good = mutant.path.parent.with_suffix(".onnx")
    vectors = Vectors.load(vectors_path(good))
    case = next(case for case in vectors.cases if case.name == "whole 1x1, from zeros")
    replace(vectors, cases=(case,), trace=None).save(vectors_path(good))
    (outcome,) = judge_all("ort-cpu", good, [mutant.path])
    mutant.outcomes["ort-cpu"] = outcome
    assert missed([mutant]) == ["all states ignored, in LSTM, on ort-cpu"]
