# SPDX-License-Identifier: Apache-2.0
"""`stateport deploy`: what it writes, what it says of others' repositories, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Command

Refused = Callable[..., None]


def test_a_repository_is_written_and_checked(
    command: Command, copied: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    outcome = command("deploy", "triton", copied, "-o", repository, "--name", "lstm")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout == (
        f"Wrote {repository / 'lstm'}. Start Triton with --model-repository={repository}.\n"
    )

    outcome = command("deploy", "triton", "--check", repository)
    assert (outcome.returncode, outcome.stdout) == (0, "PASS: nothing to correct in 1 model.\n")

    config = repository / "lstm" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "x"', 'name: "input"'))
    outcome = command("deploy", "triton", "--check", repository)
    assert outcome.returncode == 1
    assert "lstm: the input 'input' is not in the file, which has x." in outcome.stdout
    assert outcome.stdout.endswith("FAIL: 2 to correct in 1 model.\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["MODEL"], "A model and a repository were expected"),
        (["-o", "r"], "A model and a repository were expected"),
        (["MODEL", "--check", "r"], "nothing else but --idle. Leave out MODEL.onnx."),
        (["--check", "r", "-o", "q"], "nothing else but --idle. Leave out --output."),
        (["--check", "r", "--engine", "ort-cpu"], "nothing else but --idle. Leave out --engine."),
        (["--check", "r", "--batch", "4"], "nothing else but --idle. Leave out --batch."),
        (
            ["MODEL", "-o", "r", "--backend", "onnxruntime", "--engine", "ort-cpu"],
            "--engine is for --backend python",
        ),
        (["MODEL", "-o", "r", "--backend", "tensorrt"], "tensorrt"),
    ],
)
def test_misuse_is_refused(
    command: Command, refused: Refused, copied: Path, arguments: list[str], says: str
) -> None:
    texts = [str(copied) if text == "MODEL" else text for text in arguments]
    refused(command("deploy", "triton", *texts), says, code=2)


def test_what_cannot_be_done_is_an_error(
    command: Command, refused: Refused, copied: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    refused(command("deploy", "triton", missing, "-o", tmp_path / "r"), "missing")
    refused(command("deploy", "triton", copied, "-o", missing / "r"), "cannot be made")
    refused(command("deploy", "triton", copied, "-o", tmp_path / "r", "--name", "a/b"), "no name")
    refused(command("deploy", "triton", "--check", missing), "is no folder")
    assert "Traceback" in command("deploy", "triton", "--check", missing, "--debug").stderr


def test_an_application_for_ray_is_written(command: Command, copied: Path, tmp_path: Path) -> None:
    output = tmp_path / "app.py"
    line = ["deploy", "ray", f"lstm={copied}", "-o", output, "--store", "redis://127.0.0.1:6379"]
    outcome = command(*line, "--replicas", 3, "--idle", 60)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout == f"Wrote {output}. Start it with `serve run app:app`.\n"
    text = output.read_text()
    compile(text, output, "exec")
    assert f"    'lstm': {str(copied)!r},\n" in text
    assert (
        "    MODELS,\n    store='redis://127.0.0.1:6379',\n    replicas=3,\n    idle=60.0,\n)\n"
    ) in text


def test_an_application_that_is_there_is_kept(
    command: Command, refused: Refused, copied: Path, tmp_path: Path
) -> None:
    output = tmp_path / "app.py"
    output.write_text("# changed by hand\n")
    line = ["deploy", "ray", copied, "-o", output, "--store", "file:s"]
    refused(command(*line), "is there already")
    assert output.read_text() == "# changed by hand\n"


@pytest.mark.parametrize(
    ("options", "says", "code"),
    [
        (["-o", "app.py"], "--store", 2),
        (["--store", "file:s"], "--output", 2),
        (["-o", "app.py", "--store", "memory"], "which ends with its replica", 1),
        (["-o", "app.py", "--store", "foo"], "The store is 'foo'", 1),
        (["-o", "app.py", "--store", "file:"], "names no folder", 1),
        (["-o", "app.py", "--store", "redis://127.0.0.1:port"], "port", 1),
        (["-o", "app.py", "--store", "file:s", "--durability", "never"], "durability is", 1),
        (["-o", "app.py", "--store", "file:s", "--token-file", "none"], "cannot be read", 1),
        (["-o", "my-app.py", "--store", "file:s"], "is no name of a Python module", 1),
        (["-o", "app.txt", "--store", "file:s"], "is no name of a Python module", 1),
    ],
)
def test_what_ray_cannot_use_is_refused(
    command: Command,
    refused: Refused,
    copied: Path,
    options: list[str],
    says: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(command("deploy", "ray", copied, *options), says, code=code)
    assert not [*tmp_path.glob("*app*")]
