"""action.yml: its form, and its steps as shell scripts, run as GitHub runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins import install

ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
EXPRESSION = re.compile(r"\$\{\{ inputs\.([\w-]+) \}\}")
CONDITION = re.compile(r"inputs\.([\w-]+) != ''")

# An interpreter that tells what it was asked, writes the reports, and does nothing else.
STUB = f"""#!{sys.executable}
import json, sys
from pathlib import Path
with open("calls.jsonl", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
for option, value in zip(sys.argv, sys.argv[1:]):
    if option == "--report":
        Path(value).write_text("a report\\n")
"""


@dataclass
class Ran:
    """What became of the action: its last step's exit code, and all that the steps wrote."""

    code: int
    printed: str
    summary: str
    outputs: dict[str, str]


Act = Callable[..., Ran]


@pytest.fixture
def act(tmp_path: Path) -> Act:
    """Runs the steps in order, until one fails; keywords are inputs."""

    def call(**inputs: str) -> Ran:
        folder = tmp_path / "runner"
        folder.mkdir(exist_ok=True)
        summary, outputs = folder / "summary", folder / "outputs"
        summary.write_text("")
        outputs.write_text("")
        runner = {
            "GITHUB_ACTIONS": "true",
            "GITHUB_STEP_SUMMARY": str(summary),
            "GITHUB_OUTPUT": str(outputs),
            "GITHUB_ACTION_PATH": str(ROOT),
        }
        given = {name: str(spec["default"]) for name, spec in ACTION["inputs"].items()}
        given |= {"python": sys.executable, "package": "", **inputs}
        code, printed = 0, ""
        for step in STEPS if code == 0 else ():
            if wanted(step, given) and code == 0:
                code, text = run(step, given, runner, tmp_path)
                printed += text
        lines = outputs.read_text().splitlines()
        found = dict(line.split("=", maxsplit=1) for line in lines)
        return Ran(code, printed, summary.read_text(), found)

    return call


def wanted(step: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    if "if" not in step:
        return True
    condition = CONDITION.fullmatch(step["if"])
    assert condition, step["if"]
    return inputs[condition[1]] != ""


def run(
    step: Mapping[str, Any], inputs: Mapping[str, str], runner: Mapping[str, str], folder: Path
) -> tuple[int, str]:
    script = folder / "runner" / "script.sh"
    script.write_text(step["run"])
    own = {name: EXPRESSION.sub(lambda m: inputs[m[1]], v) for name, v in step["env"].items()}
    result = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", script],  # noqa: S607  # as there
        cwd=folder,
        env={**os.environ, **runner, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    return result.returncode, result.stdout


def test_it_is_composite_and_every_step_runs_in_bash() -> None:
    assert ACTION["runs"]["using"] == "composite"
    for step in STEPS:
        assert step["shell"] == "bash"
        assert step["run"].startswith("set -euo pipefail\n")
        assert "uses" not in step


def test_nothing_of_a_user_is_put_into_a_script() -> None:
    for step in STEPS:
        assert "${{" not in step["run"]
        for value in step["env"].values():
            assert EXPRESSION.fullmatch(value), value


def test_every_variable_of_a_step_is_used() -> None:
    for step in STEPS:
        for name in step["env"]:
            assert f'"${name}"' in step["run"] or f'"${name}/' in step["run"], name


def test_every_input_is_described_and_used() -> None:
    used = {EXPRESSION.fullmatch(value)[1] for s in STEPS for value in s["env"].values()}  # type: ignore[index]
    assert used == set(ACTION["inputs"])
    for spec in (*ACTION["inputs"].values(), *ACTION["outputs"].values()):
        assert spec["description"].endswith(".")
    assert all(isinstance(spec["default"], str) for spec in ACTION["inputs"].values())


def test_every_output_is_one_of_a_step() -> None:
    for name, spec in ACTION["outputs"].items():
        assert f"steps.verify.outputs.{name}" in spec["value"]
        (step,) = (step for step in STEPS if step.get("id") == "verify")
        assert f'echo "{name}=' in step["run"]


def test_the_page_shows_the_inputs_as_they_are() -> None:
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    workflow = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    steps = workflow["jobs"]["parity"]["steps"]
    (step,) = (step for step in steps if step["uses"] == "OWNER/REPO@v1")
    assert step["with"].keys() <= ACTION["inputs"].keys()
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        if "OWNER/REPO" in block:
            inputs = re.findall(r"^ {10}(\w+):", block.partition("OWNER/REPO")[2], re.MULTILINE)
            assert {*inputs} - {"name", "path"} <= ACTION["inputs"].keys()
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)` )?\|", page, re.MULTILINE)
    assert dict(rows) == {name: spec["default"] for name, spec in ACTION["inputs"].items()}


def test_a_good_target_is_exported_and_passes(act: Act, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models", tmp_path / "models")
    ran = act(target="models.lstm:reference", model="build/lstm.onnx", engines="ort-cpu\ntract")
    assert ran.code == 0, ran.printed
    assert "::error" not in ran.printed
    assert "PASS: 2 of 2 engines pass" in ran.summary
    assert ran.outputs == {"passed": "true", "report": "stateport-reports/report.json"}
    document = json.loads((tmp_path / ran.outputs["report"]).read_text(encoding="utf-8"))
    assert document["passed"] is True
    names = {path.name for path in (tmp_path / "stateport-reports").iterdir()}
    assert names == {"report.json", "report.xml", "report.md", "report.html"}
    shutil.copy(tmp_path / ran.outputs["report"], tmp_path / "old.json")
    assert act(model="build/lstm.onnx", baseline="old.json").code == 0
    overwriting = act(model="build/lstm.onnx", baseline=ran.outputs["report"])
    assert overwriting.code == 2
    assert "would overwrite the baseline" in overwriting.printed


def test_a_target_gets_its_arguments_and_an_example(act: Act, tmp_path: Path) -> None:
    (tmp_path / "network.py").write_text(
        "from torch import nn\n\n\n"
        "class Network(nn.Module):\n"
        "    def __init__(self, sizes, name):\n"
        "        super().__init__()\n"
        "        assert name == 'a b'\n"
        "        self.lstm = nn.LSTM(sizes[0], sizes[1], batch_first=True)\n\n"
        "    def forward(self, x):\n"
        "        return self.lstm(x)[0]\n"
    )
    ran = act(
        target="network.py:Network",
        arg="sizes=[3, 4]\nname=a b\n",
        example="x=float32[batch, time, 3]\n",
    )
    assert ran.code == 0, ran.printed
    assert "input   x: float32[batch, time, 3]" in ran.printed
    assert "output  y: float32[batch, time, 4]" in ran.printed
    assert ran.outputs["passed"] == "true"


def test_a_broken_model_fails_with_everything_said(act: Act, wrong: Path) -> None:
    ran = act(model=wrong.name)
    assert ran.code == 1, ran.printed
    assert re.search(r"^::error title=model\.onnx on ort-cpu::.+ off at step", ran.printed, re.M)
    assert "FAIL: 0 of 1 engines pass" in ran.summary
    assert re.search(r"(y|hn|cn) is \S+ off at step \d+", ran.summary)
    assert ran.outputs == {"passed": "false", "report": "stateport-reports/report.json"}


@pytest.mark.parametrize("require", ["true", "false"])
def test_an_engine_that_is_not_installed_counts_if_it_is_required(
    act: Act, copied: Path, monkeypatch: pytest.MonkeyPatch, require: str
) -> None:
    (install(copied.parent, name="absent") / "absent.py").unlink()
    monkeypatch.setenv("PYTHONPATH", str(copied.parent))
    ran = act(engines="ort-cpu absent", require=require)
    failed = require == "true"
    assert ran.code == failed, ran.printed
    assert ran.outputs["passed"] == str(not failed).lower()
    assert "The engine 'absent' (absent) cannot be loaded" in ran.summary
    assert ("The step failed with exit code 1." in ran.summary) == failed


@pytest.mark.parametrize(
    ("inputs", "code", "says"),
    [
        ({"model": "none.onnx"}, 1, "none.onnx could not be read"),
        ({"engines": "ort-cup"}, 2, "no engine 'ort-cup'"),
        ({"arguments": "--nonsense"}, 2, "No such option"),
        ({"arguments": "--vectors 100%.safetensors"}, 1, "100%.safetensors"),
    ],
)
def test_where_nothing_is_measured_the_reason_is_given(
    act: Act, copied: Path, inputs: dict[str, str], code: int, says: str
) -> None:
    reports = copied.with_name("stateport-reports")
    reports.mkdir()
    (reports / "report.md").write_text("PASS, long ago")
    ran = act(**inputs)
    assert ran.code == code, ran.printed
    (line,) = (line for line in ran.printed.splitlines() if line.startswith("::error "))
    assert says.replace("%", "%25") in line
    assert ran.summary.startswith("FAIL: nothing was measured.")
    assert says in ran.summary
    assert "long ago" not in ran.summary
    assert ran.outputs == {"passed": "false"}


def test_a_target_that_cannot_be_exported_ends_it(act: Act) -> None:
    ran = act(target="nowhere:network")
    assert ran.code == 1, ran.printed
    assert "::error title=stateport export::Error: " in ran.printed
    assert ran.summary.startswith("FAIL: nothing was exported.")
    assert "nowhere" in ran.summary
    assert ran.outputs == {}  # of which the action makes passed=false


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    path = tmp_path / "a python"
    path.write_text(STUB)
    path.chmod(0o755)
    return path


def calls(folder: Path) -> list[list[str]]:
    """What the stub was asked, without the way to call stateport."""
    lines = (folder / "calls.jsonl").read_text().splitlines()
    return [call[3:] if call[0] == "-P" else call for call in map(json.loads, lines)]


def reports(folder: str) -> list[str]:
    endings = ("json", "xml", "md", "html")
    return [word for ending in endings for word in ("--report", f"{folder}/report.{ending}")]


def test_lists_are_split_at_spaces_and_lines_and_at_nothing_else(act: Act, stub: Path) -> None:
    ran = act(
        python=str(stub),
        packages="stateport[cpu]\n  'torch>=2'\t-c constraints.txt\n",
        engines="\n ort-cpu  openvino:precision=bfloat16\ntract\n",
        arguments="--snr 20\n--growth 3\n",
        baseline="old report.json",
        reports="r s",
        model="a model.onnx",
        target="my net.py:net",
        weights="w w.safetensors",
    )
    assert ran.code == 0, ran.printed
    assert ran.summary == "a report\n"
    names = ("ort-cpu", "openvino:precision=bfloat16", "tract")
    engines = [word for name in names for word in ("--engine", name)]
    weights = ["--weights", "w w.safetensors"]
    more = ["--baseline", "old report.json", "--snr", "20", "--growth", "3"]
    installed = ["stateport[cpu]", "'torch>=2'", "-c", "constraints.txt"]
    assert calls(stub.parent) == [
        ["-m", "pip", "install", "--disable-pip-version-check", *installed],
        ["export", "--output", "a model.onnx", *weights, "--", "my net.py:net"],
        ["verify", *reports("r s"), *engines, "--require", *more, "--", "a model.onnx"],
    ]


def test_arguments_and_examples_are_lines_and_nothing_in_them_is_run(act: Act, stub: Path) -> None:
    hostile = [
        "a=$(touch taken)",
        "b=`touch taken`",
        "c=; touch taken #",
        "d=\"'$HOME\\",
        "e=[1, 2]",
    ]
    ran = act(
        python=str(stub),
        target="net.py:net",
        arg="".join(f"{line}\n" for line in hostile),
        example="\n  x=float32[batch, time, 5]  \nn=--debug\n\n",
    )
    assert ran.code == 0, ran.printed
    arguments = [f"--arg={line}" for line in hostile]
    examples = ["--example=x=float32[batch, time, 5]", "--example=n=--debug"]
    export = ["export", "--output", "model.onnx", *arguments, *examples, "--", "net.py:net"]
    assert calls(stub.parent)[0] == export
    assert not list(stub.parent.glob("**/taken"))


@pytest.mark.parametrize("name", ["arg", "example", "weights"])
def test_what_describes_a_target_needs_one(act: Act, stub: Path, name: str) -> None:
    ran = act(python=str(stub), **{name: "x=1"})
    assert ran.code == 2
    assert "::error title=stateport::weights, arg and example describe target, which" in ran.printed
    assert not (stub.parent / "calls.jsonl").exists()


def installed_by(act: Act, stub: Path, **inputs: str) -> list[str]:
    """What pip is asked to install."""
    ran = act(python=str(stub), **inputs)
    assert ran.code == 0, ran.printed
    return [call for call in calls(stub.parent) if "pip" in call][-1][4:]


def test_it_installs_itself_from_its_own_checkout(act: Act, stub: Path) -> None:
    assert installed_by(act, stub, package="checkout") == [f"{ROOT}/runtime[cpu]"]
    both = [f"{ROOT}/runtime[cpu,tract]", f"{ROOT}/exporter"]
    assert installed_by(act, stub, package="checkout", extras="cpu,tract", target="a.py:b") == both
    for package in ("runtime", "exporter"):
        assert (ROOT / package / "pyproject.toml").is_file()
    assert ACTION["inputs"]["package"]["default"] == "checkout"


def test_it_installs_a_published_version_where_that_is_asked_for(act: Act, stub: Path) -> None:
    inputs = {"package": "pypi", "version": "0.1.0", "target": "a.py:b", "packages": "onnx==1.20"}
    expected = ["onnx==1.20", "stateport[cpu]==0.1.0", "stateport-exporter==0.1.0"]
    assert installed_by(act, stub, **inputs) == expected
    assert installed_by(act, stub, package="pypi", extras="") == ["stateport"]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"package": "conda"}, "package is 'conda'; checkout or pypi was expected"),
        ({"package": "checkout", "version": "0.1.0"}, "version is '0.1.0', which applies to"),
    ],
)
def test_a_package_that_cannot_be_installed_is_said(
    act: Act, stub: Path, inputs: dict[str, str], says: str
) -> None:
    ran = act(python=str(stub), **inputs)
    assert ran.code == 2
    assert says in ran.printed


def test_what_is_empty_or_false_is_left_out(act: Act, stub: Path) -> None:
    assert act(python=str(stub), engines="", require="false", reports="r s").code == 0
    assert calls(stub.parent) == [["verify", *reports("r s"), "--", "model.onnx"]]


def test_what_is_required_is_true_or_false(act: Act, stub: Path) -> None:
    assert "--require" in calls_of(act, stub, "True")
    ran = act(python=str(stub), require="yes")
    assert ran.code == 2
    assert "require is 'yes'; true or false was expected" in ran.printed


def calls_of(act: Act, stub: Path, require: str) -> list[str]:
    """What verify is called with."""
    assert act(python=str(stub), require=require, reports="r s").code == 0
    return calls(stub.parent)[-1]


def test_no_input_is_run_or_expanded(act: Act, stub: Path) -> None:
    hostile = "$(touch${IFS}hacked) `touch${IFS}hacked` ;touch hacked * \"'"
    kept = ("python", "package", "reports", "require")
    names = [name for name in ACTION["inputs"] if name not in kept]
    ran = act(python=str(stub), **dict.fromkeys(names, hostile))
    assert ran.code == 0, ran.printed
    found = {path.name for path in stub.parent.iterdir()}
    assert found == {stub.name, "calls.jsonl", "runner", "stateport-reports"}
    pip, export, verify = calls(stub.parent)
    assert pip[-len(hostile.split()) :] == hostile.split()
    assert export[-1] == verify[-1] == hostile
