"""`stateport verify` on many engines: the table, the reports, annotations, a baseline, a search."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stateport.engines.openvino import computed_precision

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Refused = Callable[..., None]


def test_all_engines_at_once(
    command: Command, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATEPORT_NODE_MODULES", raising=False)
    outcome = command("verify", reference, "--engine", "all")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    for part in (
        "ort-cpu",
        "openvino",
        "tract",
        "onnx-reference",
        "c ",
        "chain",
        "not run",
        "to tract",
    ):
        assert part in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == (
        "PASS: 5 of 5 engines pass, and 20 of 20 streams carried between them; not available here: "
        "ort-cuda, ort-node, ort-web."
    )


def test_what_is_required_has_to_be_there(command: Command, reference: Path) -> None:
    line = ["verify", reference, "--engine", "ort-cpu", "--engine", "ort-cuda"]
    assert command(*line).returncode == 0
    outcome = command(*line, "--require")
    assert outcome.returncode == 1
    assert (
        "FAIL: 1 of 1 engines pass; required, and not available here: ort-cuda." in outcome.stdout
    )
    document = json.loads(command(*line, "--require", "--json").stdout)
    assert (document["passed"], document["required"]) == (False, True)


def test_options_are_the_engines(command: Command, refused: Refused, reference: Path) -> None:
    outcome = command("verify", reference, "--engine", "openvino:precision=bf16", "--json")
    (engine,) = json.loads(outcome.stdout)["engines"]
    assert engine["options"] == {"precision": "bf16"}
    judged = {"bfloat16": "25 dB", "float32": "8 times the floor"}
    computed = computed_precision("bfloat16")
    assert (engine["precision"], engine["bound"]) == (computed, judged[computed])
    refused(
        command("verify", reference, "--engine", "openvino:precision"),
        "NAME:OPTION=VALUE",
        code=2,
    )
    refused(command("verify", reference, "--engine", "tract:turbo=1"), "tract has no option")


def test_every_form_of_report_is_written_at_once(command: Command, wrong: Path) -> None:
    paths = [wrong.with_name(f"r{ending}") for ending in (".json", ".xml", ".md", ".html")]
    line = ["verify", wrong, "--engine", "ort-cpu", "--engine", "onnx-reference"]
    outcome = command(*line, *(part for path in paths for part in ("--report", path)))
    assert outcome.returncode == 1
    texts = [path.read_text(encoding="utf-8") for path in paths]
    assert json.loads(texts[0])["passed"] is False
    assert texts[1].startswith("<?xml")
    assert "FAIL" in texts[2]
    assert texts[3].startswith("<!")
    assert all("chain" in text for text in texts)


def test_annotations_are_printed_where_github_reads_them(
    command: Command, wrong: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert command("verify", reference).stderr == ""
    outcome = command("verify", wrong, "--engine", "ort-cpu", "--engine", "ort-cuda", "--json")
    lines = outcome.stderr.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::error", "::notice", "::notice"]
    assert "The vectors were recorded with another file" in lines[2]
    assert "off at step" in lines[0]
    assert json.loads(outcome.stdout)["passed"] is False
    required = command("verify", wrong, "--engine", "ort-cuda", "--require")
    assert required.stderr.startswith("::error title=")


def test_errors_that_grew_since_a_baseline_fail(
    command: Command, refused: Refused, reference: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old.json"
    assert command("verify", reference, "--report", old).returncode == 0
    assert command("verify", reference, "--baseline", old).returncode == 0
    document = json.loads(old.read_text())
    for measurement in document["engines"][0]["measurements"]:
        measurement["error"] = 0.0
    old.write_text(json.dumps(document))
    outcome = command("verify", reference, "--baseline", old, "--growth", "1")
    assert outcome.returncode == 1
    assert "grew" in outcome.stdout
    refused(command("verify", reference, "--growth", "3"), "give both", code=2)
    refused(command("verify", reference, "--baseline", reference), "is no report")


def test_the_first_node_that_is_off_is_located(
    command: Command, wrong: Path, reference: Path
) -> None:
    outcome = command("verify", wrong, "--locate")
    assert outcome.returncode == 1
    said = " ".join(outcome.stdout.split())
    assert "The file is not what was exported: the first value to be off is" in said
    assert "of the LSTM node 'node_LSTM_" in said
    alone = wrong.with_name("model.ort-cpu.node.onnx")
    assert command("verify", alone).returncode == 1
    located = json.loads(command("verify", wrong, "--locate", "--json").stdout)["engines"][0]
    assert located["located"]["operator"] == "LSTM"
    assert located["located"]["file"] == str(alone)
    assert command("verify", reference, "--locate").returncode == 0


def test_another_interpreter_runs_beside_this_one(
    command: Command, refused: Refused, reference: Path, tmp_path: Path
) -> None:
    outcome = command("verify", reference, "--python", sys.executable, "--json")
    assert outcome.returncode == 0, outcome.stdout
    here, there = json.loads(outcome.stdout)["engines"]
    assert (here["python"], there["python"]) == (None, sys.executable)
    refused(command("verify", reference, "--python", tmp_path / "python"), "does not exist", code=2)


def test_a_time_limit_has_to_be_one(command: Command, refused: Refused, reference: Path) -> None:
    refused(command("verify", reference, "--time-limit", "0"), "--time-limit", code=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--snr", "-1"], "--snr"),
        (["--snr", "inf"], "not a finite number"),
        (["--snr", "nan"], "--snr"),
        (["--time-limit", "inf"], "not a finite number"),
        (["--time-limit", "nan"], "--time-limit"),
        (["--baseline", "old.json", "--growth", "nan"], "--growth"),
        (["--baseline", "old.json", "--report", "old.json"], "would overwrite the baseline"),
        (["--engine", "all:x=1"], "takes no options"),
        (["--plan", "plan.json", "--locate"], "leave out --plan"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_would_let_anything_pass_is_refused(
    command: Command, refused: Refused, reference: Path, options: list[str], says: str
) -> None:
    refused(command("verify", reference, *options), says, code=2)


def test_nothing_is_taken_from_the_working_directory(
    process: Command, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "platform.py").write_text("raise SystemExit('taken')\n")
    (tmp_path / "onnxruntime.py").write_text("raise ImportError\n")
    monkeypatch.chdir(tmp_path)
    outcome = process("verify", reference)
    assert outcome.returncode == 0, outcome.stderr


def test_an_interpreter_that_prints_is_no_trouble_and_one_that_is_none_is_a_row(
    command: Command, reference: Path
) -> None:
    outcome = command("verify", reference, "--python", "/bin/echo")
    assert outcome.returncode == 1
    assert "ort-cpu in /bin/echo: It ended without an answer." in outcome.stdout
