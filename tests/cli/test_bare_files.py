"""Files without a contract, on the command line: --state and --constant."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.bare import written

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Refused = Callable[..., None]


@pytest.fixture
def ones(tmp_path: Path) -> Path:
    """x.npy: (2, 4, 3) of ones."""
    np.save(tmp_path / "x.npy", np.ones((2, 4, 3), np.float32))
    return tmp_path / "x.npy"


@pytest.mark.parametrize(
    ("pairs", "options"),
    [({"h0": "hn"}, []), ({"a": "b"}, ["--state", "a=b"])],
    ids=["names tell", "the caller says"],
)
def test_run_carries_the_state(
    command: Command, tmp_path: Path, ones: Path, pairs: dict[str, str], options: list[str]
) -> None:
    path = written(tmp_path / "m.onnx", pairs)
    line = ["run", path, *options, "--constant", "rate=2", "-i", f"x={ones}", "--chunk", 2]
    outcome = command(*line, "-o", tmp_path / "y.npz", "--state-out", tmp_path / "s")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    y = np.load(tmp_path / "y.npz")["y"]
    np.testing.assert_array_equal(y, np.array([2, 2, 4, 4])[None, :, None] + np.zeros((2, 4, 3)))
    again = command(*line, "-o", tmp_path / "z.npz", "--state-in", tmp_path / "s")
    assert again.returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "z.npz")["y"], y + 4)


def test_bench_takes_them_too(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", {"a": "b"})
    line = ["bench", path, "--state", "a=b", "--constant", "rate=2", "--seconds", "0.05"]
    outcome = command(*line, "--json")
    assert outcome.returncode == 0, outcome.stderr


def test_inspect_shows_what_names_tell(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", {"h0": "hn"})
    text = " ".join(command("inspect", path).stdout.split())
    assert "none in the file; the states come from --state, or from names" in text
    document = json.loads(command("inspect", path, "--json").stdout)
    assert document["says_itself"] is False
    (state,) = document["contract"]["states"]
    assert (state["input"], state["output"]) == ("h0", "hn")
    assert document["contract"]["streaming"]["ok"] is None
    assert "streams not known: Add gives each step of a call the same state" in text


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ([], 1, "no names of its inputs"),
        (["--state", "a=z"], 1, "has no output 'z' to be a state"),
        (["--state", "a=b", "--state", "a=b"], 2, "'a' is named twice"),
        (["--state", "a"], 2, "'a' is not of the form INPUT=OUTPUT"),
        (["--state", "a=b", "--constant", "rate"], 2, "'rate' is not of the form NAME=VALUE"),
        (["--state", "a=b", "--constant", "rate=fast"], 2, "'fast' is neither a number"),
        (["--state", "a=b", "--constant", "speed=2"], 1, "'speed'"),
        (["--state", "a=b", "--constant", "rate=2.5"], 1, "rate"),
    ],
)
def test_what_is_said_wrong(
    command: Command,
    refused: Refused,
    out: Path,
    tmp_path: Path,
    ones: Path,
    options: list[str],
    code: int,
    says: str,
) -> None:
    path = written(tmp_path / "m.onnx", {"a": "b"})
    refused(command("run", path, *options, "-i", f"x={ones}"), says, code=code)


def test_verify_needs_a_contract_in_the_file(
    command: Command, refused: Refused, out: Path, tmp_path: Path
) -> None:
    path = written(tmp_path / "m.onnx", {"h0": "hn"})
    refused(command("verify", path), "carries no contract")
