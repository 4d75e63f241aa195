# SPDX-License-Identifier: Apache-2.0
"""Loads the network that "module:attribute" names.

A user's code is imported and run only here, because TARGET names it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from torch import nn

from stateport.errors import first_line, in_words
from stateport.files.paths import opened, usable_path
from stateport.picking import without
from stateport.suggestions import did_you_mean

from ..errors import TargetError

#: The suffixes of TorchScript files.
ENDINGS: Final = (".pt", ".pth", ".jit", ".ts", ".torchscript")


def load_target(target: str, arguments: Mapping[str, object]) -> nn.Module:
    """The network that TARGET names: `package.module:attribute` or `path/to/file.py:attribute`.

    It may also be a TorchScript file, `model.pt`. The attribute is an `nn.Module`, or a callable
    that is called with `arguments` and returns one.

    Raises:
        FileError: the TorchScript file cannot be read.
        TargetError: the module or attribute does not exist, its code raises, the arguments do not
            fit, or the result is no `nn.Module`.
    """
    return make_network(target, find_target(target), arguments)


def find_target(target: str) -> Any:
    """The object that TARGET names: a network, or a callable that makes one.

    Raises:
        FileError: the TorchScript file cannot be read.
        TargetError: it does not exist, or its code raises.
    """
    if Path(target).suffix in ENDINGS:
        return load_script(Path(target))

    return load_attribute(target)


def load_script(path: Path) -> torch.jit.ScriptModule:
    """A module that `torch.jit.save` wrote; its code, in TorchScript, runs when it is called.

    Raises:
        FileError: the file cannot be read.
        TargetError: it is no TorchScript file.
    """
    try:
        with opened(path, "a file of TorchScript"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which say that TorchScript is deprecated
            module: torch.jit.ScriptModule = torch.jit.load(path, "cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise TargetError(
            f"{path} is no file that torch.jit.save wrote ({in_words(error)}). Weights alone are "
            "given with --weights, beside the network that takes them."
        ) from error
    return module


def make_network(target: str, value: Any, arguments: Mapping[str, object]) -> nn.Module:
    """The network that `value` is, or that it makes of the arguments.

    Args:
        target: the text that names the value, for messages.
        value: a network, or a callable that returns one.
        arguments: what the callable is called with, by name.

    Raises:
        TargetError: the code raises, the arguments do not fit, or the result is no `nn.Module`.
    """
    if isinstance(value, nn.Module):
        if arguments:
            raise TargetError(
                f"{target} is a network already, so it takes no arguments "
                f"({', '.join(arguments)}). Name its class, or a function that makes it."
            )
        return value

    if not callable(value):
        raise TargetError(
            f"{target} is a {type(value).__qualname__}; an nn.Module was expected, or a callable "
            "that returns one."
        )

    _check_signature(target, value, arguments)
    module = run_author(f"{target}({_shown(arguments)})", lambda: value(**arguments))
    if not isinstance(module, nn.Module):
        raise TargetError(
            f"{target} returned a {type(module).__qualname__}; an nn.Module was expected."
        )
    return module


def load_attribute(target: str) -> Any:
    """The object that `module:attribute` names.

    Raises:
        TargetError: the text is not of that form, or the module or attribute does not exist.
    """
    source, separator, name = target.rpartition(":")
    if not (source and separator and name):
        raise TargetError(
            f"{target!r} does not name a network; write package.module:attribute or "
            "path/to/file.py:attribute, or a file that torch.jit.save wrote, model.pt."
        )

    module = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)

    value: object = module
    for part in name.split("."):
        if not hasattr(value, part):
            candidates = [*_candidates(module)]
            raise TargetError(
                f"{source} has no attribute {name!r}; it defines "
                f"{', '.join(candidates) or 'nothing'}.{did_you_mean(name, candidates)}"
            )
        value = getattr(value, part)
    return value


def _candidates(module: ModuleType) -> Iterator[str]:
    """The public names of networks, and of callables that the module defines itself."""
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        usable = isinstance(value, nn.Module) or (callable(value) and own)
        if usable and not name.startswith("_"):
            yield name


def _import_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # as other tools that take module:attribute do
        sys.path.insert(0, here)

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise TargetError(
                f"There is no module {name!r}, neither installed nor below {here}."
            ) from error

        raise TargetError(f"{name} imports {missing!r}, which is not installed.") from error
    except (Exception, SystemExit) as error:
        raise TargetError(f"Importing {name} failed: {in_words(error)}") from error


def _import_file(path: Path) -> ModuleType:
    if not usable_path(path).is_file():
        raise TargetError(f"There is no file {path}.")

    spec = importlib.util.spec_from_file_location(path.stem, path)
    loader = None if spec is None else spec.loader
    if spec is None or loader is None:
        raise TargetError(f"{path} is not a Python file.")

    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and others look up their module

    folder = str(path.resolve().parent)
    if folder not in sys.path:  # as when the file is run: it may import its neighbours
        sys.path.insert(0, folder)

    run_author(f"Running {path}", lambda: loader.exec_module(module))
    return module


def run_author(what: str, action: Callable[[], Any]) -> Any:
    """Runs code of the network's author; `what` describes it in messages.

    Raises:
        TargetError: it raises anything, or tries to end the process.
    """
    try:
        return action()
    except (Exception, SystemExit) as error:
        raise TargetError(f"{what} failed: {in_words(error)}") from error


def _check_signature(target: str, function: Any, arguments: Mapping[str, object]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions in C have no signature
        return

    try:
        signature.bind(**arguments)
    except TypeError as error:
        unknown = without(arguments, signature.parameters)
        if not signature.parameters:
            raise TargetError(
                f"{target} takes no arguments, and --arg gives it {unknown[0]!r}. Leave --arg out."
            ) from error
        hint = did_you_mean(unknown[0], signature.parameters) if unknown else ""
        raise TargetError(
            f"{target} takes the arguments {signature}, not those of --arg: {first_line(error)}."
            f"{hint}"
        ) from error


def _shown(arguments: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
