# SPDX-License-Identifier: Apache-2.0
"""Reads a model repository that somebody wrote by hand, and says what would go wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...contract import Contract
from ...engines import engine_names
from ...errors import FileError, StateportError
from ...model_file.onnx_outline import read
from ...model_file.read_contract import find_contract
from ...picking import without
from ...shown import shown
from ...suggestions import did_you_mean
from .check_ports import check_batch_axes, check_ports
from .check_states import check_sequences, check_states
from .inside import is_inside, leads_out
from .read_configuration import Configuration, read_configuration

_CONFIGURATION: Final = "config.pbtxt"
_BACKENDS: Final = ("python", "onnxruntime")


@dataclass(frozen=True)
class Finding:
    """Something that would go wrong.

    Attributes:
        model: the name of the model's folder.
        text: what, and what to do.
    """

    model: str
    text: str


@dataclass(frozen=True)
class Report:
    """What was found in a repository of so many models."""

    models: int
    findings: tuple[Finding, ...]


def check_repository(repository: Path, *, idle: float = 10.0) -> Report:
    """Checks every model of a repository, or the one model whose folder is given.

    Args:
        repository: a folder of models, or a model's folder.
        idle: the longest time between two chunks of a sequence, in seconds.

    Raises:
        FileError: there is no such folder, or no model in it.
    """
    if not repository.is_dir():
        raise FileError(f"{repository} is no folder; a repository of Triton was expected.")
    folders = [repository]
    if not (repository / _CONFIGURATION).is_file():
        folders = sorted(path for path in repository.iterdir() if path.is_dir())
    if not any((folder / _CONFIGURATION).is_file() for folder in folders):
        raise FileError(
            f"{repository} has no model with a {_CONFIGURATION}; a repository of Triton was "
            "expected. Name the folder that Triton is started with."
        )

    findings = []
    for folder in folders:
        findings += [Finding(folder.resolve().name, text) for text in _check_model(folder, idle)]
    return Report(len(folders), tuple(findings))


def _check_model(folder: Path, idle: float) -> Iterator[str]:
    """What is wrong with one model."""
    path = folder / _CONFIGURATION
    if not path.is_file():
        yield f"there is no {_CONFIGURATION}; one that Triton makes itself has no states. Write it."
        return
    try:
        config = read_configuration(path)
    except FileError as error:
        yield str(error)
        return

    yield from config.unknown
    name = folder.resolve().name
    if config.name not in ("", name):
        yield (
            f"the name is {shown(config.name)}, and the folder is {shown(name)}; Triton wants them "
            "to be the same. Leave the name out, or rename the folder."
        )
    if config.backend not in _BACKENDS:
        yield (
            f"the backend is {config.backend or 'not named'}; stateport can check "
            f"{' and '.join(_BACKENDS)}."
        )
        return
    yield from _check_versions(config, folder, idle)


def _check_versions(config: Configuration, folder: Path, idle: float) -> Iterator[str]:
    """What is wrong with the versions' files, and with the configuration for them."""
    versions = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal())
    if not versions:
        yield "there is no version: a folder with a number as its name, 1, was expected."
    for number in without(config.versions, [version.name for version in versions]):
        yield f"version_policy names version {number}, and there is no such folder."

    for version in versions:
        yield from _check_version(config, version, idle)


def _check_version(config: Configuration, version: Path, idle: float) -> Iterator[str]:
    """What is wrong with one version's files, and with the configuration for them."""
    is_python = config.backend == "python"
    if not is_inside(config.model_file):
        yield leads_out("default_model_filename", config.model_file)
        return
    path = version / (config.model_file or ("model.py" if is_python else "model.onnx"))
    if not path.is_file():
        yield f"version {version.name} has no file {path.name}."
        return

    file = version / "model.onnx" if is_python else path
    if not file.is_file():
        yield (
            f"version {version.name} has no model.onnx beside {path.name}, so that nothing of "
            "it can be checked."
        )
        return
    try:
        contract = find_contract(read(file))
    except StateportError as error:
        yield str(error)
        return
    yield from _check_contract(config, contract, version.parent, idle)
    if is_python and _is_ours(path):
        yield from _check_pool(config)


def _check_contract(
    config: Configuration, contract: Contract, folder: Path, idle: float
) -> Iterator[str]:
    """What is wrong with the configuration for a file with this contract."""
    yield from check_ports(config, contract)
    yield from check_sequences(config, contract, idle)
    if config.backend == "python":
        return

    yield from check_batch_axes(config, contract)
    if config.has_sequences:
        yield from check_states(config, contract, folder)


def _is_ours(path: Path) -> bool:
    """Whether a `model.py` is the one that stateport writes, which reads parameters."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return 'parameters["capacity"]' in path.read_text(encoding="utf-8")
    return False


def _check_pool(config: Configuration) -> Iterator[str]:
    """Whether stateport's `model.py` can read its parameters, and has a row for each sequence."""
    for name in without(("engine", "threads", "capacity"), config.parameters):
        yield f"the parameter {name} is missing, which model.py reads. Add it."
    for name in ("capacity", "threads"):
        value = config.parameters.get(name)
        if value is not None and not (value.isascii() and value.isdecimal() and int(value)):
            yield (
                f"the parameter {name} is {shown(value)}; a whole number of at least 1 was "
                "expected."
            )

    engine, engines = config.parameters.get("engine"), engine_names()
    if engine is not None and engine not in engines:
        yield (
            f"the parameter engine is {shown(engine)}; one of {', '.join(engines)} was expected."
            f"{did_you_mean(engine, engines)}"
        )

    capacity = config.parameters.get("capacity", "")
    if capacity.isdecimal() and int(capacity) < config.candidates:
        yield (
            f"max_candidate_sequences is {config.candidates}, and the pool takes {capacity} "
            "streams, so that live ones would be dropped. Make the parameter capacity as large."
        )
