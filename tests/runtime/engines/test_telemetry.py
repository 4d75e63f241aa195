# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's telemetry client stays off, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, os, pathlib, sys, threading

def threads():
    tasks = pathlib.Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 0

import numpy
before = threads()
if sys.argv[2] == "library alone":
    import onnxruntime
else:
    import stateport
    stateport.load(sys.argv[1])
files = [path.name for path in pathlib.Path.home().rglob("*") if path.is_file()]
variable = os.environ.get("ORT_DISABLE_TELEMETRY")
print(json.dumps({"files": files, "threads": threads() - before, "variable": variable}))
"""


def observe(model: Path, home: Path, way: str, **variables: str) -> dict[str, Any]:
    """What a fresh process with an empty home leaves behind."""
    environment = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        environment.pop(name, None)

    home.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), way],
        env={**environment, "HOME": str(home), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_nothing_starts_and_the_environment_stays_as_it_was(
    reference: Path, tmp_path: Path
) -> None:
    seen = observe(reference, tmp_path / "home", "stateport")
    assert seen == {"files": [], "threads": 0, "variable": None}


def test_the_library_alone_starts_its_client_and_so_the_test_above_can_fail(
    reference: Path, tmp_path: Path
) -> None:
    seen = observe(reference, tmp_path / "home", "library alone")
    if not seen["files"]:
        pytest.skip("this build of ONNX Runtime has no telemetry client")
    assert "deviceid" in seen["files"]


@pytest.mark.parametrize("value", ["0", "1"])
def test_a_variable_that_the_caller_set_is_left_alone(
    value: str, reference: Path, tmp_path: Path
) -> None:
    seen = observe(reference, tmp_path / "home", "stateport", ORT_DISABLE_TELEMETRY=value)
    assert seen["variable"] == value
