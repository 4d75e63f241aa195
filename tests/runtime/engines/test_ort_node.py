"""The engine `ort-node` where Node or its packages are missing; tests/javascript has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

import stateport
from stateport import EngineUnavailable, InputError, engines
from stateport.engines.requirements import NotInstalledError

#: A program in place of Node that answers in one frame, and what is then said.
ANSWERS = {
    '{"error":"x","code":"MODULE_NOT_FOUND"}': "which are not in .*npm install stateport",
    '{"error":"v18.0.0","code":"OldNode"}': "needs Node 20 or newer; .* is v18.0.0",
    '{"error":"It broke.","code":"EngineError"}': "It broke",
}


@pytest.fixture(autouse=True)
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without Node."""
    monkeypatch.delenv("STATEPORT_NODE_MODULES", raising=False)
    monkeypatch.delenv("STATEPORT_NODE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def program(path: Path, code: str) -> str:
    """A shell script in place of Node."""
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return str(path)


def test_doctor_says_how_to_get_node_and_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = engines.status("ort-node")
    assert not status.installed
    assert "needs Node 20 or newer" in str(status.problem)
    assert "https://nodejs.org" in str(status.problem)

    monkeypatch.setenv("STATEPORT_NODE", program(tmp_path / "other", "exit 1"))
    status = engines.status("ort-node")
    assert not status.installed
    assert "npm install stateport onnxruntime-node" in str(status.problem)
    assert engines.facts("ort-node").install == "npm install stateport onnxruntime-node"


def test_nothing_is_taken_from_the_working_directory(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "node_modules" / "stateport").mkdir(parents=True)
    with pytest.raises(NotInstalledError, match="name that folder"):
        stateport.load(reference, engine="ort-node", node=program(tmp_path / "n", "exit 1"))


@pytest.mark.parametrize(("answer", "says"), ANSWERS.items())
def test_what_the_process_says_first(
    reference: Path, tmp_path: Path, answer: str, says: str
) -> None:
    frame = f"printf '\\{len(answer):03o}\\0\\0\\0'; printf '%s' '{answer}'"
    node = program(tmp_path / "fake", frame)
    with pytest.raises(stateport.EngineError, match=says):
        stateport.load(reference, engine="ort-node", node=node, modules=tmp_path)


def test_a_program_that_says_nothing_or_cannot_start(reference: Path, tmp_path: Path) -> None:
    node = program(tmp_path / "fake", "echo Segmentation fault >&2; exit 3")
    with pytest.raises(stateport.EngineError, match=r"exit code 3 \(Segmentation fault\)"):
        stateport.load(reference, engine="ort-node", node=node, modules=tmp_path)
    with pytest.raises(EngineUnavailable, match="cannot be started: No such file"):
        stateport.load(reference, engine="ort-node", node=tmp_path / "no", modules=tmp_path)
    with pytest.raises(InputError, match="node is 3; a path was expected"):
        stateport.load(reference, engine="ort-node", node=3, modules=tmp_path)
