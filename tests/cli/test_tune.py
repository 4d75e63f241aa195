"""`stateport tune`: real searches, short ones; what it writes, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stateport
from stateport import FileError, StateportError
from stateport.parity.engine_report import measure_model, measure_with_ratio
from stateport.parity.vectors import Vectors, vectors_path
from stateport.plan import Plan
from stateport.tune.search import TuningGoal, tune
from tests.cli.conftest import Command
from tests.plugins import install


def test_it_writes_a_plan_that_has_been_verified(command: Command, copied: Path) -> None:
    outcome = command("tune", copied, "--streams", "8", "--rounds", "2", "--threads", "1", "--json")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    document = json.loads(outcome.stdout)
    (best,) = [trial for trial in document["trials"] if trial["best"]]
    assert best["verdict"] == "pass"
    names = {trial["variant"] for trial in document["trials"]}
    assert names == {"as exported", "plain step"}, "only float32 without a budget"
    plan = Plan.load(copied.with_name("model.plan.json"))
    assert (plan.engine, plan.variant) == (best["engine"], best["variant"])
    assert plan.measured["streams"] == 8
    planned = stateport.load(copied, plan=copied.with_name("model.plan.json"))
    assert measure_model(planned, Vectors.load(vectors_path(copied))).passed


@pytest.mark.patterns
def test_with_a_budget_reduced_precision_is_among_them(command: Command, copied: Path) -> None:
    outcome = command(
        "tune", copied, "--snr", "20", "--rounds", "2", "--threads", "1,2", "--goal", "throughput",
        "--time", "1,5", "--streams", "4", "-o", copied.with_name("quick.json"),
    )  # fmt: skip
    assert (outcome.returncode, outcome.stderr) == (0, "")
    for part in ("blocks of 4 bits", "int8, plain step", "bfloat16", "pass", "Written"):
        assert part in outcome.stdout
    plan = copied.with_name("quick.json")
    for name in ("verify", "bench", "run"):
        more: tuple[object, ...] = ()
        if name == "run":
            np.save(copied.with_name("x.npy"), np.zeros((1, 3, 5), np.float32))
            more = ("-i", f"x={copied.with_name('x.npy')}")
        elif name == "bench":
            more = ("--rounds", "2", "--seconds", "0.001")
        elif name == "verify":
            more = ("--snr", "20")
        outcome = command(name, copied, "--plan", plan, *more)
        assert (outcome.returncode, outcome.stderr) == (0, ""), name


def test_a_plan_is_never_one_that_fails(command: Command, copied: Path) -> None:
    outcome = command("tune", copied, "--snr", "300", "--rounds", "2", "--threads", "1")
    assert outcome.returncode == 1
    assert "No plan for" in outcome.stderr
    assert "300 dB was wanted" in outcome.stderr
    assert not list(copied.parent.glob("*.plan*"))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--time", "1,2"), 1, "For latency one chunk length is needed, and 2 came"),
        (("--time", "1,,2"), 2, "is not a list of whole numbers"),
        (("--streams", "0"), 2, "0 is not in the range"),
        (("--snr", "x"), 2, "'x' is no number"),
        (("--snr", "0"), 2, "0.0 is not in the range"),
        (("--goal", "beauty"), 2, "'beauty' is not one of"),
        (("-o", "plan.yaml"), 2, "a plan is a JSON file"),
        (("-o", "nowhere/plan.json"), 1, "there is no folder nowhere"),
        (("--vectors", "none.safetensors"), 1, "none.safetensors could not be read"),
    ],
)
def test_misuse_is_refused(
    command: Command, copied: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    outcome = command("tune", copied, *arguments)
    assert outcome.returncode == code
    assert says in outcome.stderr
    assert not list(copied.parent.glob("*.plan*"))


def test_a_model_that_is_missing_is_named_before_its_vectors(
    command: Command, copied: Path
) -> None:
    outcome = command("tune", copied.with_name("modle.onnx"))
    assert outcome.returncode == 1
    assert "modle.onnx could not be read" in outcome.stderr
    assert "Did you mean 'model.onnx'?" in outcome.stderr
    assert "vectors" not in outcome.stderr


def test_where_the_exporter_is_missing_the_engines_are_compared(
    command: Command, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stateport.tune.variants.entry_points", lambda **_: [])
    outcome = command("tune", copied, "--rounds", "2", "--threads", "1")
    assert outcome.returncode == 0
    assert "Not tried: other ways to write a step need the exporter" in outcome.stdout
    assert stateport.load(copied, plan=copied.with_name("model.plan.json")).precision == "float32"


def test_an_engine_that_fails_is_left_out_with_its_reason(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another distribution's engine may raise what it likes, also for an option of its own."""
    run = """
    from stateport import InputError
    raise InputError("abacus-picky takes no chunks.")
    """
    monkeypatch.syspath_prepend(install(tmp_path, run=run, name="abacus-picky"))
    vectors = Vectors.load(vectors_path(copied))
    plan = tmp_path / "plan.json"

    engines = ("abacus-picky", "ort-cpu")
    tuned = tune(copied, vectors, plan, TuningGoal(), engines=engines, rounds=2, seconds=0.001)
    verdicts: dict[str, set[str]] = {}
    for trial in tuned.trials:
        verdicts.setdefault(trial.plan.engine, set()).add(trial.verdict)
    assert verdicts["abacus-picky"] == {"cannot run: abacus-picky takes no chunks."}
    assert "pass" in verdicts["ort-cpu"]

    alone = ("abacus-picky",)
    with pytest.raises(StateportError, match="The quickest: cannot run: abacus-picky takes no"):
        tune(copied, vectors, plan, TuningGoal(), engines=alone, rounds=2, seconds=0.001)


def test_a_plan_that_cannot_be_verified_does_not_stop_a_search_that_has_one(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []

    def measure(*arguments: Any, name: str, **options: Any) -> Any:
        names.append(name)
        if len(names) > 1:
            raise FileError("The vectors do not fit.")
        return measure_with_ratio(*arguments, name=name, **options)

    monkeypatch.setattr("stateport.tune.search.measure_with_ratio", measure)
    vectors = Vectors.load(vectors_path(copied))
    goal, engines = TuningGoal(), ("ort-cpu", "tract")
    tuned = tune(
        copied, vectors, tmp_path / "p.json", goal, engines=engines, rounds=2, seconds=1e-3
    )
    verdicts = [trial.verdict for trial in tuned.trials if trial.times is not None]
    assert verdicts.count("pass") == 1
    assert "cannot be verified: The vectors do not fit." in verdicts


def test_every_plan_that_ran_has_decibels_and_the_chosen_one_is_verified_as_it_runs(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def measure(model: stateport.Model, *arguments: Any, **options: Any) -> Any:
        ran.append((model.engine, model.threads))
        return measure_with_ratio(model, *arguments, **options)

    monkeypatch.setattr("stateport.tune.search.measure_with_ratio", measure)
    vectors = Vectors.load(vectors_path(copied))
    goal, engines = TuningGoal(), ("ort-cpu",)
    tuned = tune(
        copied, vectors, tmp_path / "p.json", goal,
        engines=engines, threads=(1, 2), rounds=2, seconds=1e-3,
    )  # fmt: skip
    assert {trial.decibels and trial.decibels > 100 for trial in tuned.trials} == {True}
    assert ("ort-cpu", tuned.best.plan.threads) in ran
    assert len(ran) <= 3, "one for each form, and the chosen one"
