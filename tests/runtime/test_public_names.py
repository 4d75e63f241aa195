"""The public names, locked: a change here is a change for everyone."""

from __future__ import annotations

import pydoc
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import stateport
import stateport_exporter

RUNTIME = [
    "ArraySpec",
    "AsyncPool",
    "CarriedStream",
    "Contract",
    "ContractError",
    "EngineChoice",
    "EngineError",
    "EngineReport",
    "EngineUnavailable",
    "EngineVerdict",
    "ErrorCurve",
    "FileError",
    "InputError",
    "LocatedFault",
    "Matrix",
    "Measurement",
    "Model",
    "Pool",
    "PoolStream",
    "State",
    "StateError",
    "StateSpec",
    "StateportError",
    "Stream",
    "Streaming",
    "StreamingError",
    "load",
    "verify",
]
EXPORTER = [
    "ContractResult",
    "EmitResult",
    "ExportError",
    "ExportResult",
    "LiftResult",
    "LiftedOperator",
    "PossibleState",
    "QuantizeResult",
    "QuantizedOperator",
    "Spec",
    "add_contract",
    "emit_c",
    "export",
    "lift",
    "quantize",
]

packages = pytest.mark.parametrize(
    ("package", "names"), [(stateport, RUNTIME), (stateport_exporter, EXPORTER)]
)


@packages
def test_the_public_names_are_these(package: ModuleType, names: list[str]) -> None:
    assert list(package.__all__) == names


@packages
def test_every_public_name_is_there_and_says_what_it_is(
    package: ModuleType, names: list[str]
) -> None:
    for name in names:
        assert getattr(package, name).__doc__, name


@packages
def test_nothing_else_leaks(package: ModuleType, names: list[str]) -> None:
    public = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public <= {*names, "TYPE_CHECKING"}


@packages
def test_completion_and_help_show_these_names(package: ModuleType, names: list[str]) -> None:
    assert {name for name in dir(package) if not name.startswith("_")} == {*names}

    page = pydoc.plain(pydoc.render_doc(package))
    for name in names:
        assert re.search(rf"^    (class )?{name}\b", page, re.MULTILINE), name


@packages
def test_a_type_checker_sees_these_names(
    package: ModuleType, names: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "user.py"
    source.write_text("".join(f"from {package.__name__} import {name}\n" for name in names))

    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", source.name]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@packages
def test_an_unknown_name_is_an_attribute_error(package: ModuleType, names: list[str]) -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = package.nonsense


def test_all_errors_stand_below_one() -> None:
    errors = [name for name in RUNTIME if name.endswith(("Error", "Unavailable"))]
    for name in errors:
        assert issubclass(getattr(stateport, name), stateport.StateportError)
    assert issubclass(stateport_exporter.ExportError, stateport.StateportError)
    assert issubclass(stateport.StateError, stateport.InputError)
    assert issubclass(stateport.InputError, ValueError)
    assert issubclass(stateport.EngineUnavailable, stateport.EngineError)
