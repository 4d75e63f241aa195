"""Data that people recorded, on the command line: `verify --data` and `export --vectors-from`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Command

NETWORK = """
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two recordings and a file that is none."""
    folder = tmp_path / "data"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, steps in (("first", 70), ("second", 31)):
        x = 5 * random.standard_normal((1, steps, 5))
        np.savez(folder / f"{name}.npz", x=x.astype(np.float32))
    (folder / "README.txt").write_text("Recorded by hand.")
    return folder


def test_verify_says_what_is_compared_with_what(command: Command, copied: Path, data: Path) -> None:
    outcome = command("verify", copied, "--data", data)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert f"2 recordings in {data}, 101 steps: compared y, hn, cn with" in outcome.stdout
    assert "the whole run of onnx-reference (onnx " in outcome.stdout
    assert "README.txt was not read" in outcome.stdout
    assert "PASS: 6 cases on ort-cpu, up to 70 chained steps" in outcome.stdout
    assert "0.0e+00" not in outcome.stdout, "there is no floor"


def test_the_report_has_it_too(command: Command, copied: Path, data: Path) -> None:
    report = copied.with_name("report.json")
    outcome = command("verify", copied, "--data", data, "--report", report)
    assert outcome.returncode == 0
    document = json.loads(report.read_text(encoding="utf-8"))
    assert document["remarks"][0].startswith("2 recordings in ")
    made_with = document["engines"][0]["made_with"]
    assert made_with["recordings"] == str(data)
    assert made_with["reference"].startswith("onnx-reference")


def test_a_wrong_model_fails_on_recorded_answers(
    command: Command, wrong: Path, reference: Path, data: Path
) -> None:
    import stateport

    x = np.load(data / "first.npz")["x"]
    y, _ = stateport.load(reference)(x)
    np.savez(data / "first.npz", x=x, y=y)
    outcome = command("verify", wrong, "--data", data)
    assert outcome.returncode == 1
    assert "compared y with the recorded answers, and y, hn, cn with" in outcome.stdout
    assert "FAIL: " in outcome.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--vectors", "{model}"], 2, "--data and --vectors are two sets of cases"),
        (["--locate"], 2, "--locate needs the values that an export recorded"),
    ],
)
def test_options_that_exclude_data(
    command: Command, copied: Path, data: Path, options: list[str], code: int, says: str
) -> None:
    arguments = [option.format(model=copied) for option in options]
    outcome = command("verify", copied, "--data", data, *arguments)
    assert outcome.returncode == code
    assert says in outcome.stderr


def test_wrong_data_is_one_error(
    command: Command, copied: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    refused(command("verify", copied, "--data", tmp_path / "nowhere"), "does not exist")
    np.savez(tmp_path / "take.npz", X=np.zeros((1, 4, 5), np.float32))
    refused(command("verify", copied, "--data", tmp_path / "take.npz"), "Did you mean 'x'?")


def test_export_records_the_data(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").write_text(NETWORK)
    np.save("take.npy", np.random.default_rng(0).standard_normal((1, 40, 3)).astype(np.float32))
    outcome = command(
        "export", "network.py:Network", "--example", "x=take.npy[batch,time,3]",
        "--vectors-from", "take.npy", "-o", "m.onnx",
    )  # fmt: skip
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "note: the vectors hold 1 recording from take.npy, 40 steps." in outcome.stdout
    assert "PASS: 23 cases on ort-cpu" in outcome.stdout
