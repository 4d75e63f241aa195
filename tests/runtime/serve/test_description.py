# SPDX-License-Identifier: Apache-2.0
"""/openapi.json is a description of this server: schemathesis finds no answer that it forbids."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from stateport.serve.openapi import description
from tests.runtime.serve.process import Serving

#: Others of its checks know nothing of streams: a valid request may well be refused.
CHECKS: Final = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance"
)


def references(value: Any) -> list[str]:
    """Every reference in a document."""
    if isinstance(value, list):
        return [name for entry in value for name in references(entry)]
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [name for entry in value.values() for name in references(entry)]
    return []


def test_every_reference_leads_to_a_schema() -> None:
    document = description(["lstm"])
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) == known


def test_every_operation_has_a_name_of_its_own() -> None:
    document = description(["lstm"])
    names = [
        operation["operationId"]
        for path in document["paths"].values()
        for method, operation in path.items()
        if method in ("get", "post")
    ]
    assert len(set(names)) == len(names) == 15


def test_schemathesis_finds_nothing(server: Serving, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"http://{server.http}/openapi.json",
    ]
    command += ["--checks", CHECKS, "--max-examples", "30", "--seed", "1", "--no-color"]
    command += ["--phases", "coverage,fuzzing"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout[-4000:]
