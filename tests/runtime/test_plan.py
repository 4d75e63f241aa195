"""Plans: read strictly, made for one model, and the same answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import stateport
from stateport import ContractError, FileError, InputError
from stateport.plan import Plan, PlanFile, sha256
from stateport.tune import Variant
from stateport_exporter.quantize_file import make_variants
from tests.conftest import Exported


@pytest.fixture
def stepped(reference: Path, tmp_path: Path) -> Path:
    """A plan that runs single steps in a file of their own."""
    variant = next(make_variants(reference, tmp_path, reduced=False))
    assert isinstance(variant, Variant)
    assert variant.step is not None
    plan = Plan(sha256(reference), "ort-cpu", 1, step=PlanFile.of(variant.step))
    plan.save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def test_a_plan_is_read_as_it_was_written(stepped: Path) -> None:
    plan = Plan.load(stepped)
    plan.save(stepped.with_name("again.json"))
    assert Plan.load(stepped.with_name("again.json")) == plan


def test_single_steps_and_chunks_are_one_sequence(reference: Path, stepped: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 60, 5), np.float32)
    whole, last = stateport.load(reference)(x)
    model = stateport.load(reference, plan=stepped)
    stream, start, parts = model.stream(), 0, []
    for chunk in (1, 1, 7, 1, 20, 1, 1, 1, 27):
        parts.append(stream(x[:, start : start + chunk]))
        start += chunk
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=0, atol=1e-6)
    for name, array in stream.state.items():
        np.testing.assert_allclose(array, last[name], rtol=0, atol=1e-6)
    step, _ = model(x[:, :1])
    np.testing.assert_allclose(step, whole[:, :1], rtol=0, atol=1e-6)


def test_a_pool_steps_under_a_plan(reference: Path, stepped: Path) -> None:
    x = np.random.default_rng(0).standard_normal((4, 30, 5), np.float32)
    whole, _ = stateport.load(reference)(x)
    pool = stateport.load(reference, plan=stepped).pool(4)
    streams = pool.open(4)
    parts = [pool.step(streams, x[:, t : t + 1]) for t in range(10)]
    parts.append(pool.step(streams, x[:, 10:25]))
    parts += [pool.step(streams, x[:, t : t + 1]) for t in range(25, 30)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=0, atol=1e-6)


def test_a_plan_for_another_model_is_refused(
    exported: Exported, stepped: Path, reference: Path
) -> None:
    with pytest.raises(FileError, match="was made for another model than"):
        stateport.load(exported(num_layers=2), plan=stepped)
    file = Plan.load(stepped).step
    assert file is not None
    step = stepped.with_name(file.name)
    shutil.copy(reference, step)
    with pytest.raises(FileError, match=r"is not the file that .*plan\.json was measured with"):
        stateport.load(reference, plan=stepped)
    step.unlink()
    with pytest.raises(FileError, match=r"'.*step\.onnx', which is not there"):
        stateport.load(reference, plan=stepped)


def test_a_file_with_another_contract_is_refused(
    exported: Exported, reference: Path, tmp_path: Path
) -> None:
    other = shutil.copy(exported(num_layers=2), tmp_path / "other.onnx")
    plan = Plan(sha256(reference), "ort-cpu", 1, whole=PlanFile.of(Path(other)))
    plan.save(tmp_path / "plan.json")
    with pytest.raises(ContractError, match="has another contract than"):
        stateport.load(reference, plan=tmp_path / "plan.json")


def test_a_plan_says_everything_alone(reference: Path, stepped: Path) -> None:
    for given in ({"engine": "ort-cpu"}, {"threads": 1}, {"device": 0}):
        with pytest.raises(InputError, match="A plan sets the engine"):
            stateport.load(reference, plan=stepped, **given)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": None},
        {"engine": 3},
        {"threads": 0},
        {"threads": "1"},
        {"chunk": 1.5},
        {"more": 1},
        {"step": {"name": "../step.onnx", "sha256": "0"}},
        {"step": {"name": "/etc/passwd", "sha256": "0"}},
        {"step": {"name": "step.onnx"}},
        {"whole": "step.onnx"},
        {"options": 1},
    ],
)
def test_what_is_no_plan_is_refused(
    reference: Path, stepped: Path, change: dict[str, object]
) -> None:
    document = json.loads(stepped.read_text())
    document.update(change)
    stepped.write_text(json.dumps(document))
    with pytest.raises(FileError, match=r"plan\.json is not a plan that this stateport reads"):
        stateport.load(reference, plan=stepped)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "\x00"])
def test_garbage_is_refused(reference: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(FileError, match=r"plan\.json is not a plan"):
        stateport.load(reference, plan=tmp_path / "plan.json")
    with pytest.raises(FileError, match=r"none\.json could not be read"):
        stateport.load(reference, plan=tmp_path / "none.json")
