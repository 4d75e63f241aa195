"""`stateport verify`: its verdict, its exit code and its report."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stateport.parity.vectors import vectors_path

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_model_that_gives_pytorchs_answers_passes(command: Command, reference: Path) -> None:
    outcome = command("verify", reference)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    for heading in ("case", "output", "error", "floor", "verdict", "pass", "chain"):
        assert heading in outcome.stdout
    assert "FAIL" not in outcome.stdout
    assert "PASS: " in outcome.stdout.splitlines()[-1]


def test_a_model_that_does_not_fails(command: Command, wrong: Path) -> None:
    outcome = command("verify", wrong)
    assert (outcome.returncode, outcome.stderr) == (1, "")
    assert "FAIL: " in outcome.stdout.splitlines()[-1]


def test_json_is_one_document_and_nothing_else(command: Command, reference: Path) -> None:
    outcome = command("verify", reference, "--json")
    document = json.loads(outcome.stdout)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    (report,) = document["engines"]
    assert document["version"] == 1
    assert report["status"] == "passed"
    assert report["engine"] == "ort-cpu"
    assert report["truth"] == "float64"
    assert all(measurement["passed"] for measurement in report["measurements"])
    assert {m["output"] for m in report["measurements"]} == {"y", "hn", "cn"}


def test_the_json_of_a_failure_says_where(command: Command, wrong: Path) -> None:
    outcome = command("verify", wrong, "--json")
    (report,) = json.loads(outcome.stdout)["engines"]
    assert outcome.returncode == 1
    assert report["status"] == "failed"
    failed = [m for m in report["measurements"] if not m["passed"]]
    assert failed
    assert all(m["step"] >= 0 and float(m["error"]) > 0 for m in failed)


def test_the_report_is_written_also_for_a_failure(
    command: Command, wrong: Path, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    outcome = command("verify", wrong, "--report", path, "--json")
    assert outcome.returncode == 1
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(outcome.stdout)


@pytest.mark.parametrize(
    ("bounds", "code"),
    [
        (["--atol", "0"], 1),
        (["--rtol", "0"], 1),
        (["--atol", "1e-12", "--rtol", "1e-12"], 1),
        (["--atol", "1e-3"], 0),
        (["--atol", "1e-4", "--rtol", "1e-3"], 0),
        (["--atol", "inf"], 0),
        (["--atol", "nan"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_tolerance_replaces_the_floor(
    command: Command, reference: Path, bounds: list[str], code: int
) -> None:
    outcome = command("verify", reference, *bounds)
    assert outcome.returncode == code
    assert "times the floor" not in outcome.stdout


def test_a_loose_tolerance_lets_a_wrong_model_pass(command: Command, wrong: Path) -> None:
    assert command("verify", wrong, "--atol", "0.5").returncode == 0


def test_an_engine_that_is_named_twice_runs_once(command: Command, reference: Path) -> None:
    outcome = command("verify", reference, "--engine", "ort-cpu", "--engine", "ort-cpu", "--json")
    assert [r["engine"] for r in json.loads(outcome.stdout)["engines"]] == ["ort-cpu"]


@pytest.mark.parametrize("name", ["odd [bold]name.onnx", "odd [x].onnx", "odd [].onnx"])
def test_a_name_with_brackets_is_shown_as_it_is(
    command: Command, reference: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    shutil.copy(reference, path)
    outcome = command("verify", path, "--vectors", vectors_path(reference))
    assert outcome.returncode == 0, outcome.stderr
    assert name in " ".join(outcome.stdout.split())


def test_a_folder_that_looks_like_the_end_of_a_style_does_no_harm(
    command: Command, reference: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "odd ["
    folder.mkdir()
    shutil.copy(reference, folder / "bold].onnx")
    vectors = vectors_path(reference)
    outcome = command("verify", folder / "bold].onnx", "--vectors", vectors)
    assert outcome.returncode == 0, outcome.stderr


def test_a_report_that_cannot_be_written_is_an_error(
    command: Command, reference: Path, tmp_path: Path
) -> None:
    outcome = command("verify", reference, "--report", tmp_path / "none" / "report.json")
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("Error: ")
    assert "there is no folder" in outcome.stderr


def test_vectors_may_stand_elsewhere(command: Command, reference: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    shutil.copy(reference, path)
    assert command("verify", path, "--vectors", vectors_path(reference)).returncode == 0


def test_a_network_that_cannot_stream_is_verified_too(
    command: Command, exported: Callable[..., Path]
) -> None:
    assert command("verify", exported(bidirectional=True)).returncode == 0


def test_the_real_command_verifies(process: Command, reference: Path, wrong: Path) -> None:
    good, bad = process("verify", reference, "--json"), process("verify", wrong)
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["engines"][0]["status"] == "passed"
    assert (bad.returncode, bad.stderr) == (1, "")
    assert "FAIL" in bad.stdout


def test_numbers_in_the_report_are_finite_or_text(command: Command, reference: Path) -> None:
    outcome = command("verify", reference, "--atol", "0", "--json")

    def refuse(constant: str) -> float:
        raise AssertionError(constant)  # NaN and Infinity are not JSON

    document = json.loads(outcome.stdout, parse_constant=refuse)
    shares = [m["share"] for m in document["engines"][0]["measurements"]]
    assert "inf" in shares
    assert not np.isnan([float(share) for share in shares]).any()
