"""`stateport bench`: real runs, short ones; and how it refuses."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stateport.cli import bench as command_module
from tests.cli.conftest import Command

QUICK = ("--rounds", "2", "--seconds", "0.0001")


def test_every_combination_is_measured(command: Command, reference: Path) -> None:
    outcome = command(
        "bench", reference, *QUICK, "--streams", "1,3", "--time", "1,4", "--threads", "1,2",
        "--engine", "ort-cpu", "--engine", "openvino", "--json",
    )  # fmt: skip
    assert (outcome.returncode, outcome.stderr) == (0, "")
    document = json.loads(outcome.stdout)
    found = {(r["streams"], r["time"], r["on"], r["threads"]) for r in document["results"]}
    assert len(found) == len(document["results"]) == 16
    assert [c["threads"] for c in document["ceilings"]] == [1, 2]
    for result in document["results"]:
        assert result["p50"] <= result["p99"]
        assert result["share"] > 0
        assert result["against"] is None


def test_pytorch_stands_beside_it(command: Command, reference: Path, tmp_path: Path) -> None:
    outcome = command(
        "bench", reference, *QUICK, "--streams", "1,3", "--against", "models.lstm:ReferenceLSTM",
        "--arg", "hidden_size=10", "--plot", tmp_path / "p.svg",
    )  # fmt: skip
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "PyTorch" in outcome.stdout
    assert "relative time" in outcome.stdout
    assert "GFLOP/s" in outcome.stdout
    root = ElementTree.parse(tmp_path / "p.svg").getroot()  # noqa: S314  # our own file
    assert root.tag.endswith("svg")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--streams", "1,x"), 2, "'1,x' is not a list of whole numbers"),
        (("--streams", "0"), 2, "'0' is not a list of whole numbers of at least 1"),
        (("--time", ""), 2, "'' is not a list"),
        (("--time", "-1"), 2, "is not a list"),
        (("--engine", "abacus"), 2, "no engine 'abacus'; known are"),
        (("--rounds", "1"), 2, "1 is not in the range"),
        (("--seconds", "0"), 2, "0.0 is not in the range"),
        (("--plot", "p.png"), 2, "the plot is an SVG file"),
        (("--plot", "nowhere/p.svg"), 1, "there is no folder nowhere"),
        (("--arg", "a=1"), 2, "are for --against TARGET"),
        (("--plan", "p.json", "--engine", "ort-cpu"), 2, "--plan sets the engine"),
        (("--plan", "none.json"), 1, "none.json could not be read"),
        (("--against", "no.such:thing"), 1, "no"),
    ],
)
def test_misuse_is_refused(
    command: Command, reference: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    outcome = command("bench", reference, *QUICK, *arguments)
    assert outcome.returncode == code
    assert outcome.stdout == ""
    assert says in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_without_the_exporter_it_says_how_to_get_it(
    command: Command, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = metadata.EntryPoints()
    monkeypatch.setattr(command_module, "entry_points", lambda **_: none)
    outcome = command("bench", reference, "--against", "models.lstm:ReferenceLSTM")
    assert outcome.returncode == 1
    assert "pip install stateport-exporter" in outcome.stderr
