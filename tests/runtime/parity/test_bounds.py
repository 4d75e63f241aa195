"""Signal-to-noise budgets: what they measure, and that they fail."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import stateport
from stateport import InputError
from stateport.parity.bounds import (
    WINDOW,
    Budget,
    Compared,
    SignalToNoise,
    Tolerance,
    decibels,
    noise,
    signal,
)
from stateport.parity.engine_report import measure_model
from stateport.parity.reports.text import summary
from stateport.parity.vectors import Vectors, vectors_path
from stateport.precision import BUDGETS, lowest
from stateport_exporter import quantize


def test_decibels() -> None:
    assert decibels(1.0, 0.1) == pytest.approx(20)
    assert decibels(1.0, 0.0) == math.inf
    assert decibels(0.0, 1.0) == -math.inf
    assert decibels(1.0, math.inf) == -math.inf


def test_the_signal_is_over_all_cases_and_leaves_out_what_is_no_number() -> None:
    assert signal([np.array([[3.0]]), np.array([[4.0, np.nan]])]) == pytest.approx(math.sqrt(12.5))
    assert signal([np.zeros((0, 3))]) == 0.0


def test_noise_that_comes_late_is_not_averaged_away() -> None:
    truth = np.zeros((10 * WINDOW, 1))
    table = truth.copy()
    table[-WINDOW:] = 0.5
    found = noise(table, truth)
    assert found[-1] == pytest.approx(0.5)
    assert found[:-WINDOW].max() == 0.0


def test_what_is_no_number_is_infinite_noise() -> None:
    truth = np.ones((3, 2))
    table = truth.copy()
    table[1, 0] = np.nan
    assert noise(table, truth).tolist() == [0.0, math.inf, math.inf]
    assert (
        Budget(10.0, {"y": 1.0}).shares(Compared("y", table, truth, truth, truth)).max() == math.inf
    )


def test_a_share_says_its_ratio() -> None:
    budget = Budget(20.0, {"y": 1.0})
    one = np.ones(1)
    shares = budget.shares(Compared("y", np.full((1, 1), 1.1), np.ones((1, 1)), one, one))
    assert shares == pytest.approx([1.0])
    assert budget.snr(1.0) == pytest.approx(20.0)
    assert budget.snr(10.0) == pytest.approx(0.0)


def test_of_several_precisions_the_lowest_budget_counts() -> None:
    assert lowest("float32", "int8") == "int8"
    assert lowest("bfloat16", "int4", "float16") == "int4"
    assert lowest("float32", "float32") == "float32"
    assert set(BUDGETS) == {"float16", "bfloat16", "int8", "int4"}


def test_a_budget_of_the_callers_own_replaces_the_floor(reference: Path) -> None:
    model, vectors = stateport.load(reference), Vectors.load(vectors_path(reference))
    generous = measure_model(model, vectors, wanted=SignalToNoise(60))
    assert generous.passed
    assert all(m.snr is not None and m.snr > 100 for m in generous.measurements)
    assert "60 dB was wanted (float32" in summary(generous)[-1]
    strict = measure_model(model, vectors, wanted=SignalToNoise(200))
    assert not strict.passed


def test_reduced_precision_is_judged_by_its_budget(reference: Path, tmp_path: Path) -> None:
    quantize(reference, tmp_path / "q.onnx", check=False)
    model = stateport.load(tmp_path / "q.onnx")
    vectors = Vectors.load(vectors_path(reference))
    report = measure_model(model, vectors)
    assert report.passed
    assert report.precision == "int8"
    off = {n: floor * 0 + 1 for n, floor in vectors.floor.items()}
    assert measure_model(model, replace(vectors, floor=off)).passed, "the floor plays no part"
    assert not measure_model(model, vectors, wanted=SignalToNoise(90)).passed


def test_bfloat16_is_judged_by_what_was_computed(reference: Path) -> None:
    model = stateport.load(reference, engine="openvino", precision="bfloat16")
    report = measure_model(model, Vectors.load(vectors_path(reference)))
    assert report.passed
    assert (report.precision, report.bound) in (
        ("bfloat16", "25 dB"),
        ("float32", "8 times the floor"),
    )
    assert report.precision == model.precision


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_a_tolerance_that_would_let_anything_pass_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="at least 0 was expected"):
        Tolerance(bad, 0.0)
    with pytest.raises(InputError, match="at least 0 was expected"):
        Tolerance(0.0, bad)


@pytest.mark.parametrize("bad", [-10.0, 0.0, math.nan, math.inf, -math.inf])
def test_a_budget_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="positive number of decibels"):
        SignalToNoise(bad)
