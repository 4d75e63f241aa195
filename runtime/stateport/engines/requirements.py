# SPDX-License-Identifier: Apache-2.0
"""Checks that engines share: the library is installed, and the engine has what is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType

from ..contract import CONTRACT_KEY, Contract
from ..errors import EngineError, EngineUnavailable, InputError, in_words
from ..model_file.onnx_outline import OnnxFile


class NotInstalledError(EngineUnavailable):
    """The library of an engine is not installed; others than this are and do not work."""


def library(name: str, module: str, install: str) -> ModuleType:
    """Imports the library of an engine.

    Args:
        name: the engine's name.
        module: the module to import.
        install: the command that installs the library.

    Raises:
        NotInstalledError: the library is not installed.
        EngineError: the library is installed and cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name not in (module, top):
            raise EngineError(f"{name}: {top} is installed and needs {error.name!r}.") from error

        raise NotInstalledError(
            f"{name} needs {top}, which is not installed. Install it: {install}."
        ) from error
    except Exception as error:
        raise EngineError(
            f"{name}: {module} is installed and cannot be imported: {in_words(error)}."
        ) from error


def no_options(name: str, options: Mapping[str, object]) -> None:
    """Refuses all options, for an engine without options.

    Raises:
        InputError: there are some.
    """
    for option in sorted(options):
        raise InputError(f"{name} has no option {option!r}; it takes none.")


def no_lengths(name: str, file: OnnxFile) -> None:
    """Refuses networks that take the lengths of rows, for an engine that ignores them.

    OpenVINO, tract and onnx's reference do not read `sequence_lens` of the recurrent operators: the
    states of shorter rows would be those after their padding.

    Raises:
        EngineError: the network takes lengths.
    """
    text = file.metadata.get(CONTRACT_KEY)
    if not text:
        return

    for spec in Contract.from_json(text).inputs:
        if spec.lengths_of is not None:
            raise EngineError(
                f"{name} ignores the lengths of rows ({spec.name!r}), and would give wrong states "
                "for the shorter ones. Use engine='ort-cpu'."
            )
