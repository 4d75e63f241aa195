"""Facts about engines: those of other distributions count as those of the built-in ones do."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import stateport
from stateport import InputError, engines
from stateport.engines import EngineFacts
from stateport.parity.vectors import Vectors, vectors_path
from stateport.tune.choice import Trial
from stateport.tune.search import Tuned, TuningGoal, tune
from stateport.tune.variants import Variant
from tests.plugins import install

FACTS = """

def facts(name):
    from stateport.engines import EngineFacts
    return EngineFacts({})
"""
Install = Callable[[str | None], str]


@pytest.fixture
def abacus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs an engine of another distribution, whose facts are these arguments."""

    def install_with(arguments: str | None) -> str:
        install(tmp_path)
        if arguments is not None:
            module = tmp_path / "abacus.py"
            module.write_text(module.read_text() + FACTS.replace("{}", arguments))
        monkeypatch.syspath_prepend(tmp_path)
        return "abacus"

    yield install_with
    sys.modules.pop("abacus", None)


def tuned(model: Path, path: Path, *names: str, snr: float | None = None) -> Tuned:
    """A short search on these engines."""
    goal = TuningGoal(snr=snr)
    vectors = Vectors.load(vectors_path(model))
    return tune(model, vectors, path, goal, engines=names, threads=(1, 2), rounds=2, seconds=0.001)


def on(trials: tuple[Trial, ...], engine: str) -> list[Trial]:
    """The trials on one engine."""
    return [trial for trial in trials if trial.plan.engine == engine]


def test_every_built_in_engine_has_facts() -> None:
    for name in ("ort-cpu", "ort-cuda", "openvino", "tract", "onnx-reference"):
        facts = engines.facts(name)
        assert facts.packages
        assert facts.install.startswith("pip install 'stateport[")
        assert facts.precisions["float32"] == {}
    assert engines.facts("tract").most_threads == 1
    assert engines.facts("ort-cpu").step_graphs
    assert not engines.facts("onnx-reference").for_speed


def test_without_facts_the_defaults_hold(abacus: Install) -> None:
    assert engines.facts(abacus(None)) == EngineFacts(packages=("abacus",))


def test_an_engine_that_cannot_be_loaded_has_the_defaults(
    abacus: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = abacus(None)
    (tmp_path / "abacus.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.delitem(sys.modules, "abacus", raising=False)
    assert engines.facts(name) == EngineFacts(packages=("abacus",))


def test_more_threads_than_an_engine_can_use_are_refused(reference: Path, abacus: Install) -> None:
    name = abacus("most_threads=2")
    assert stateport.load(reference, engine=name, threads=2).engine == name
    with pytest.raises(InputError, match="abacus computes in at most 2 threads; threads=3"):
        stateport.load(reference, engine=name, threads=3)


def test_tune_tries_it_as_its_facts_say(
    reference: Path, tmp_path: Path, abacus: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    def variants(_: Path, folder: Path, **__: object) -> Iterator[Variant]:
        yield Variant("as exported")
        yield Variant("step alone", step=Path(shutil.copy(reference, folder)))

    monkeypatch.setattr("stateport.tune.search.make_variants", variants)
    name = abacus("most_threads=1, step_graphs=True")
    result = tuned(reference, tmp_path / "plan.json", name, "tract")
    trials = on(result.trials, name)
    assert {trial.variant.name for trial in trials} == {"as exported", "step alone"}
    assert {trial.plan.threads for trial in trials} == {1}
    assert {trial.variant.name for trial in on(result.trials, "tract")} == {"as exported"}
    assert result.best.passed


def test_tune_tries_its_precisions_within_a_budget(
    reference: Path, tmp_path: Path, abacus: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stateport.tune.variants.entry_points", lambda **_: [])
    name = abacus('precisions={"float32": {}, "bfloat16": {"fast": True}}')
    exact = tuned(reference, tmp_path / "exact.json", name)
    assert [trial.plan.options for trial in on(exact.trials, name)] == [{}, {}]
    budgeted = tuned(reference, tmp_path / "budgeted.json", name, snr=20.0)
    trials = on(budgeted.trials, name)
    assert {trial.plan.threads for trial in trials} == {1, 2}
    lower = [trial for trial in trials if trial.plan.options]
    assert {trial.verdict for trial in lower} == {
        "this processor has no bfloat16: the same as float32"
    }


@pytest.mark.parametrize(("arguments", "tried"), [(None, True), ("for_speed=False", False)])
def test_tune_tries_by_default_what_is_made_to_be_fast(
    reference: Path,
    tmp_path: Path,
    abacus: Install,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str | None,
    tried: bool,
) -> None:
    monkeypatch.setattr("stateport.tune.variants.entry_points", lambda **_: [])
    name = abacus(arguments)
    monkeypatch.setattr("stateport.tune.search.engine_names", lambda: (name, "ort-cpu"))
    result = tuned(reference, tmp_path / "plan.json")
    assert bool(on(result.trials, name)) is tried
    assert on(result.trials, "ort-cpu")


def test_doctor_shows_it_with_its_package(
    abacus: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stateport.cli import main

    abacus('install="pip install abacus"')
    monkeypatch.setattr(sys, "argv", ["stateport", "doctor", "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["packages"]["abacus"] == "1.0"
    (engine,) = [engine for engine in document["engines"] if engine["name"] == "abacus"]
    assert (engine["works"], engine["version"]) == (True, "abacus 1.0")
    assert engine["install"] == "pip install abacus"
