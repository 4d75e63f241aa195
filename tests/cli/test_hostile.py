"""Whatever a file says, no command tells it to a terminal or a build server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import stateport
from stateport.cli import doctor
from stateport.engines import Status
from tests.exporter.graphs import Builder
from tests.hostile import EVIL, dangers, spoilt

Command = Callable[..., Any]

SHOWN = "[red]x[/red][@click]:cat:<b>|"
ODD = "a\x1b]0;x\x07\n::error::b.onnx"


@pytest.fixture
def evil(reference: Path, tmp_path: Path) -> Path:
    """The reference, with evil names."""
    return spoilt(reference, tmp_path / "m.onnx")


def shown(outcome: Any, code: int = 0) -> str:
    """Both streams, once they are known to be harmless."""
    text: str = outcome.stdout + outcome.stderr
    assert outcome.returncode == code, text
    assert not dangers(text)
    return text


def test_inspect_shows_names_as_they_are(command: Command, evil: Path) -> None:
    text = "".join(line.strip() for line in shown(command("inspect", evil)).splitlines())
    assert text.count("teamcity[x]") >= 8
    document = json.loads(shown(command("inspect", evil, "--json")))
    assert document["contract"]["inputs"][0]["name"] == f"x{EVIL}"
    assert document["origin"] == {EVIL: f"{EVIL}\0"}


def test_run_names_inputs_and_outputs(command: Command, evil: Path, x: Path) -> None:
    text = shown(command("run", evil, "-i", f"x{EVIL}={x}"))
    assert text.startswith(r"y\x1b]0;owned\x07\x1b[31m\r\n:\x3aerror::evil")
    assert SHOWN in text
    assert SHOWN in shown(command("run", evil, "-i", f"x={x}"), 1)


def test_verify_its_reports_and_its_annotations(
    command: Command, evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(evil)
    (tensor,) = (t for t in model.graph.initializer if "l0.R" in t.name)
    tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(model, evil)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    reports = [tmp_path / f"r.{ending}" for ending in ("json", "md", "html", "xml")]
    outcome = command("verify", evil, *(part for path in reports for part in ("--report", path)))
    assert re.fullmatch(
        r"::error title=.* on ort-cpu::.*\n::notice title=.*recorded with another file.*\n",
        outcome.stderr,
    )
    outcome.stderr = outcome.stderr.removeprefix("::error ").replace("::notice ", "")
    assert "FAIL" in shown(outcome, 1)
    for path in reports:
        assert not dangers(path.read_text(encoding="utf-8")), path
    assert EVIL in json.loads(reports[0].read_text())["engines"][0]["reason"]


def test_bench_and_its_picture(command: Command, evil: Path, tmp_path: Path) -> None:
    path = evil.rename(evil.with_name(ODD))
    options = ("--rounds", 2, "--seconds", 0.001, "--plot", tmp_path / "p.svg")
    assert r"a\x1b]0;x\x07\n:\x3aerror::b" in shown(command("bench", path, *options))
    assert not dangers((tmp_path / "p.svg").read_text())


def test_quantize_and_lift_name_operators(command: Command, evil: Path, tmp_path: Path) -> None:
    assert r"\x1b]0;owned" in shown(command("quantize", evil, "-o", tmp_path / "q.onnx"))
    build = Builder()
    x = build.op("Transpose", [build.input("x", ["N", "L", 5])], perm=[1, 0, 2])
    y = build.recurrent("LSTM", x, 5, 6)
    build.output(build.op("Transpose", [y], perm=[1, 0, 2]), "y", ["N", "L", None])
    for node in build.nodes:
        node.name += EVIL
    source = build.save(tmp_path / "hidden.onnx")
    text = shown(command("lift", source, "-o", tmp_path / "l.onnx"))
    assert r"\x1b]0;owned" in text
    assert "lifted" in text


def test_doctor_tells_what_an_engine_says(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "status", lambda name: Status(name, f"v{EVIL}", None))
    assert r"\x1b]0;owned" in shown(command("doctor"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: setattr(m.graph.node[0], "op_type", f"Gothic{EVIL}"),
        lambda m: m.graph.node[0].input.__setitem__(0, f"nowhere{EVIL}"),
        lambda m: m.metadata_props.add(key="stateport.precision", value=EVIL),
        lambda m: m.metadata_props.add(key="stateport.contract", value=f"{{{EVIL}"),
    ],
    ids=["operator", "operand", "precision", "contract"],
)
def test_what_is_wrong_with_a_file(
    command: Command, evil: Path, tmp_path: Path, damage: Callable[[Any], None]
) -> None:
    model = onnx.load(evil)
    damage(model)
    onnx.save(model, evil)
    outputs = ("-o", tmp_path / "q.onnx")
    for line in (
        ("verify", evil),
        ("bench", evil, "--rounds", 2, "--seconds", 0.001),
        ("inspect", evil),
        ("quantize", evil, *outputs, "--no-check"),
    ):
        outcome = command(*line)
        shown(outcome, outcome.returncode)
        assert "Traceback" not in outcome.stderr
        assert outcome.returncode in (0, 1)


def test_a_path_is_text_from_outside_too(command: Command, tmp_path: Path) -> None:
    for name in ("inspect", "verify", "run"):
        assert shown(command(name, tmp_path / ODD), 1).count("\n") == 1
    assert shown(command("inspect", f"--{ODD}"), 2).endswith("\n")


def test_debug_is_harmless_too(command: Command, tmp_path: Path) -> None:
    assert "Traceback" in shown(command("inspect", tmp_path / ODD, "--debug"), 1)


def test_nothing_is_printed_past_the_one_way_out() -> None:
    runtime = Path(stateport.__file__).parent
    exporter = runtime.parents[1] / "exporter" / "stateport_exporter"
    ways = re.compile(r"click\.(secho|echo)|\bprint\(|\bConsole\(|sys\.(stdout|stderr)\b")
    # Two speak to a process; one writes a server's log; the last sends to stderr what PyTorch
    # prints.
    own = {"output.py", "main.py", "roofline.py", "logs.py", "isolation.py"}
    sources = [path for folder in (runtime, exporter) for path in folder.rglob("*.py")]
    assert len(sources) > 100
    assert not [p for p in sources if p.name not in own and ways.search(p.read_text("utf-8"))]
