# SPDX-License-Identifier: Apache-2.0
"""A model repository for Triton, written from one model's file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ...contract import Contract
from ...errors import FileError, InputError, StateportError, in_words
from ...files.together import staging
from ...model import load
from ...model_file.onnx_outline import OnnxFile, read
from ...model_file.read_contract import read_contract
from .batch_first import is_batch_first, write_batch_first
from .configuration import Settings, onnxruntime_configuration, python_configuration

#: The only version of a model that is written.
VERSION: Final = "1"
MODEL_FILE: Final = "model.onnx"
CONFIGURATION: Final = "config.pbtxt"
#: Where Triton looks for the first values of states.
INITIAL_STATES: Final = "initial_state"
#: A copy of the contract, for whoever reads the repository.
CONTRACT: Final = "contract.json"

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
#: File systems take 255 bytes; a folder that is being written has a longer name.
_LONGEST_NAME: Final = 128
_BACKEND_MODEL: Final = Path(__file__).with_name("backend_model.py")


def name_of(model: Path, name: str | None) -> str:
    """The model's name in Triton: the one that is given, or that of the file.

    Raises:
        InputError: no folder of a repository should have that name.
    """
    chosen = model.stem if name is None else name
    if not _NAME.fullmatch(chosen):
        raise InputError(
            f"{chosen!r} is no name for a model in Triton; letters, digits and any of _ . - were "
            "expected. Pass --name NAME."
        )
    if len(chosen) > _LONGEST_NAME:
        raise InputError(
            f"The model's name has {len(chosen)} letters; at most {_LONGEST_NAME} were expected. "
            "Pass --name NAME."
        )
    return chosen


def write_repository(
    model: Path,
    repository: Path,
    settings: Settings,
    *,
    backend: str = "python",
    progress: Callable[[str], None] = lambda _: None,
) -> Path:
    """Writes a model into a repository, which is made if it is not there.

    Args:
        model: a file with a contract.
        repository: the folder that Triton is started with.
        settings: the model's name there, and how it runs.
        backend: "python" for stateport inside of Triton, or "onnxruntime" for Triton's implicit
            state. For the latter, a file whose states have the batch axis elsewhere than first is
            copied with the batch first, and the copy is compared with the file.
        progress: is called with a text before each part of the work.

    Returns:
        The model's folder in the repository.

    Raises:
        FileError: a file cannot be read or written, or the repository has such a model already.
        ContractError: the file has no contract, or one that the backend cannot serve.
        StreamingError: the network cannot stream, or its rows depend on one another.
        StateportError: the copy needs the exporter, or is not equal to the file.
    """
    source = read(model)
    read_contract(source)
    progress("loading the model")
    load(model, engine=settings.engine, threads=settings.threads).pool(1)

    try:
        repository.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(
            f"The folder {repository} cannot be made: {in_words(error)}. Give another name."
        ) from error

    target = repository / settings.name
    _check_free(target)
    progress(f"writing {target}")
    try:
        with staging(target) as folder:
            made = folder / settings.name
            try:
                (made / VERSION).mkdir(parents=True)
                _WRITERS[backend](source, made, settings)
                _check_free(target)
                made.rename(target)
            finally:  # what is left in a folder of `staging` has to be files
                shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise FileError(f"{target} could not be written: {in_words(error)}.") from error
    return target


def _check_free(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise FileError(f"{target} is there already. Remove it, or pass --name with another name.")


def _write_python(source: OnnxFile, folder: Path, settings: Settings) -> None:
    """The files for the Python backend."""
    contract = read_contract(source)
    _write_text(folder / CONFIGURATION, python_configuration(contract, settings))
    _copy_model(source, folder / VERSION)
    shutil.copyfile(_BACKEND_MODEL, folder / VERSION / "model.py")
    _write_text(folder / CONTRACT, f"{contract.to_json()}\n")


def _write_onnxruntime(source: OnnxFile, folder: Path, settings: Settings) -> None:
    """The files for the ONNX Runtime backend."""
    contract = read_contract(source)
    path = folder / VERSION / MODEL_FILE
    if is_batch_first(contract):
        _copy_model(source, path.parent)
    else:
        _check_batches(contract)
        write_batch_first(source.path, path)

    written = read(path)
    contract = read_contract(written)
    initial_files = _write_initial_states(written, contract, folder)
    text = onnxruntime_configuration(contract, settings, initial_files)
    _write_text(folder / CONFIGURATION, text)
    _write_text(folder / CONTRACT, f"{contract.to_json()}\n")


def _check_batches(contract: Contract) -> None:
    """Refuses, before a copy is made, arrays that have no batch axis."""
    for spec in (*contract.inputs, *contract.outputs, *contract.state_inputs):
        if "batch" not in spec.shape:
            raise StateportError(
                f"{spec} has no batch axis, and Triton batches every array. Export the network "
                "with one, or pass --backend python."
            )


def _write_initial_states(source: OnnxFile, contract: Contract, folder: Path) -> dict[str, str]:
    """Writes the first values that the file has, and returns the file's name by state input."""
    names = {}
    for index, spec in enumerate(contract.states):
        if spec.initial == "file":
            names[spec.input] = f"state_{index}.bin"
            (folder / INITIAL_STATES).mkdir(exist_ok=True)
            # One row, of which Triton makes the first axis: its bytes are those of the row.
            content = source.initial[spec.input].tobytes()
            (folder / INITIAL_STATES / names[spec.input]).write_bytes(content)
    return names


def _copy_model(source: OnnxFile, folder: Path) -> None:
    """Copies a model's file, and the files that hold its weights."""
    shutil.copyfile(source.path, folder / MODEL_FILE)
    for name in source.external_files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path.parent / name, folder / name)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


_WRITERS: Final = {"python": _write_python, "onnxruntime": _write_onnxruntime}
#: What may be written.
BACKENDS: Final = tuple(_WRITERS)
