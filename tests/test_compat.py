"""`make compat`: its pins are the bounds that pyproject.toml states, and nothing is left out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compat.__main__ import table
from compat.bounds import EXTRAS, lowest_of, pins
from compat.environments import EXPORTER, RUNTIME, Environment
from compat.trying import Outcome, find_python, try_environment

ROOT = Path(__file__).parents[1]
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_lower_bounds_become_pins(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\ndependencies = ["numpy>=1.26", "stateport>=0.1.0,<0.2", '
        '"onnx-ir >= 0.1.13; os_name"]\n'
        '[project.optional-dependencies]\ncpu = ["onnxruntime>=1.20"]\ngpu = ["cupy>=1"]\n'
    )
    assert lowest_of(project, ["cpu"]) == {
        "numpy": "numpy==1.26",
        "onnx-ir": "onnx-ir==0.1.13",
        "onnxruntime": "onnxruntime==1.20",
    }


@pytest.mark.parametrize("other", ["numpy", "numpy<3", "numpy>=1,<3", "numpy==2", "numpy @ x"])
def test_a_dependency_without_one_lower_bound_is_an_error(other: str) -> None:
    with pytest.raises(ValueError, match="one lower bound"):
        pins([other])


def test_every_dependency_of_both_distributions_has_a_pin() -> None:
    runtime = lowest_of(ROOT / RUNTIME, EXTRAS)
    assert {"numpy", "click", "onnxruntime", "openvino", "tract", "onnx"} <= set(runtime)
    assert {"torch", "onnx", "onnxscript", "onnx-ir"} <= set(lowest_of(ROOT / EXPORTER))


def test_a_python_that_is_missing_is_reported(tmp_path: Path) -> None:
    assert find_python("3.2") is None
    outcome = try_environment(Environment("runtime newest", "3.2", ()), tmp_path, tmp_path)
    assert outcome.summary() == "not tried: no Python 3.2 was found"
    assert not outcome.is_bad()


def test_too_little_room_is_reported(tmp_path: Path) -> None:
    huge = Environment("exporter", VERSION, (), gigabytes=10**9)
    assert "GB of disk" in (try_environment(huge, tmp_path, tmp_path).not_tried or "")


def test_what_does_not_install_is_a_failure_only_where_it_was_promised(tmp_path: Path) -> None:
    missing = (str(tmp_path / "missing.whl"),)
    python = VERSION
    for promised in (True, False):
        environment = Environment("one", python, missing, promised=promised)
        outcome = try_environment(environment, tmp_path, tmp_path)
        assert outcome.is_bad() == promised
        assert (outcome.not_tried is None) == promised
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_the_table_has_a_row_for_each_outcome() -> None:
    environment = Environment("runtime lowest", "3.11", ())
    outcomes = [
        Outcome(environment, {"numpy": "1.26.0"}, passed=3, newest_opset=21),
        Outcome(environment, failed={"run": "off by 1"}),
        Outcome(environment, not_tried="no Python 3.11 was found"),
    ]
    assert table(outcomes).row_count == 3
    assert [outcome.summary() for outcome in outcomes] == [
        "3 passed; newest opset 21",
        "FAILED: run; 0 passed",
        "not tried: no Python 3.11 was found",
    ]
