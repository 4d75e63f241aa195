"""`stateport doctor`: what works here, and what to do about the rest."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest

import stateport
from stateport import engines

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_text_names_every_engine_and_says_what_works(command: Command) -> None:
    outcome = command("doctor")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    text = " ".join(outcome.stdout.split())
    assert f"Python {platform.python_version()}" in text
    assert f"stateport {stateport.__version__}" in text
    assert "ort-cpu works: onnxruntime" in text
    assert all(name in text for name in engines.engine_names())


def test_json_is_one_document_and_nothing_else(command: Command) -> None:
    outcome = command("doctor", "--json")
    document = json.loads(outcome.stdout)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert [engine["name"] for engine in document["engines"]] == [*engines.engine_names()]
    for engine in document["engines"]:
        assert engine["works"] is (engine["problem"] is None) is (engine["version"] is not None)
    assert document["packages"]["stateport"] == stateport.__version__


def test_where_no_engine_works_the_exit_code_says_so(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("onnxruntime", "openvino", "tract", "onnx.reference"):
        monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setenv("STATEPORT_CC", "a-compiler-that-is-not-there")
    outcome = command("doctor", "--json")
    assert outcome.returncode == 1
    assert not any(engine["works"] for engine in json.loads(outcome.stdout)["engines"])
    text = command("doctor").stdout
    assert "pip install" in text
    assert "stateport[cpu]" in text


def test_the_real_command_reports(process: Command) -> None:
    outcome = process("doctor", "--json")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert json.loads(outcome.stdout)["engines"][0]["works"] is True
