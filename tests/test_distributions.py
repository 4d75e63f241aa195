"""The metadata of both distributions agree with each other and with the code."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import stateport
import stateport_exporter

ROOT = Path(__file__).parents[1]
FOLDERS = ("runtime", "exporter")


def project(folder: str) -> dict[str, Any]:
    document = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))
    metadata: dict[str, Any] = document["project"]
    return metadata


def test_both_have_one_version_number() -> None:
    assert stateport_exporter.__version__ == stateport.__version__


def test_the_exporter_depends_on_the_stateport_of_its_own_minor_version() -> None:
    [line] = [each for each in project("exporter")["dependencies"] if each.startswith("stateport")]
    allowed = Requirement(line).specifier
    version = Version(stateport.__version__)

    assert version in allowed
    assert Version(f"{version.major}.{version.minor}.0") in allowed
    assert Version(f"{version.major}.{version.minor + 1}.0") not in allowed
    assert Version(f"{version.major + 1}.0.0") not in allowed


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_metadata_say_who_it_is_for(folder: str) -> None:
    metadata = project(folder)
    assert metadata["authors"]
    assert metadata["keywords"]
    assert "Programming Language :: Python :: 3.11" in metadata["classifiers"]


@pytest.mark.parametrize(
    "workflow", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=str
)
def test_workflows_run_only_targets_that_the_makefile_has(workflow: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in workflow.read_text(encoding="utf-8").splitlines():
        command = line.partition("- run: make ")[2]
        for target in command.split():
            assert f"\n{target}:" in makefile, f"{workflow.name} runs `make {target}`"


def test_every_file_of_both_packages_names_its_license() -> None:
    for folder in ("runtime/stateport", "exporter/stateport_exporter", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            assert first in ("", "# SPDX-License-Identifier: Apache-2.0"), path
