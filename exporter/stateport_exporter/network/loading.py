"""From "module:attribute" to a module.

Here, and only here, a user's code is imported and run, because TARGET names it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from torch import nn

from stateport.errors import first_line, in_words
from stateport.files.paths import opened, usable_path

from ..errors import TargetError

#: What files of TorchScript are called.
ENDINGS: Final = (".pt", ".pth", ".jit", ".ts", ".torchscript")


def load_target(target: str, arguments: Mapping[str, object]) -> nn.Module:
    """The network that TARGET names: `package.module:attribute` or `path/to/file.py:attribute`.

    Or a file of TorchScript, `model.pt`. The attribute is an `nn.Module`, or a callable that is
    called with `arguments` and returns one.

    Raises:
        TargetError: the module or attribute is not there, its code raises, the arguments do not
            fit, or what comes is no `nn.Module`.
    """
    return make_network(target, find_target(target), arguments)


def find_target(target: str) -> Any:
    """What TARGET names: a network, or what makes one.

    Raises:
        TargetError: it is not there, or its code raises.
    """
    is_script = Path(target).suffix in ENDINGS
    return load_script(Path(target)) if is_script else load_attribute(target)


def load_script(path: Path) -> torch.jit.ScriptModule:
    """A module that `torch.jit.save` wrote. Its code is TorchScript, and is run when it is called.

    Raises:
        FileError: the file cannot be read.
        TargetError: it is none of TorchScript's.
    """
    try:
        with opened(path, "a file of TorchScript"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is old
            module: torch.jit.ScriptModule = torch.jit.load(path, "cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise TargetError(
            f"{path} is no file that torch.jit.save wrote ({in_words(error)}). Weights alone are "
            "given with --weights, beside the network that takes them."
        ) from error
    return module


def make_network(target: str, found: Any, arguments: Mapping[str, object]) -> nn.Module:
    """The network that TARGET is, or that it makes of the arguments.

    Raises:
        TargetError: the code raises, the arguments do not fit, or what comes is no `nn.Module`.
    """
    if isinstance(found, nn.Module):
        if arguments:
            raise TargetError(
                f"{target} is a network already, so it takes no arguments "
                f"({', '.join(arguments)}). Name its class, or a function that makes it."
            )
        return found
    if not callable(found):
        raise TargetError(
            f"{target} is a {type(found).__qualname__}; an nn.Module was expected, or a callable "
            "that returns one."
        )
    _check_signature(target, found, arguments)
    module = run_author(f"{target}({_shown(arguments)})", lambda: found(**arguments))
    if not isinstance(module, nn.Module):
        raise TargetError(
            f"{target} returned a {type(module).__qualname__}; an nn.Module was expected."
        )
    return module


def load_attribute(target: str) -> Any:
    """Whatever `module:attribute` names.

    Raises:
        TargetError: the text is not of that form, or the module or attribute is not there.
    """
    where, separator, name = target.rpartition(":")
    if not separator or not where or not name:
        raise TargetError(
            f"{target!r} does not name a network; write package.module:attribute or "
            "path/to/file.py:attribute, or a file that torch.jit.save wrote, model.pt."
        )
    module = _import_file(Path(where)) if where.endswith(".py") else _import_module(where)
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [
                key for key, value in vars(module).items() if _is_candidate(key, value, module)
            ]
            raise TargetError(
                f"{where} has no attribute {name!r}; it defines {', '.join(public) or 'nothing'}."
            )
        found = getattr(found, part)
    return found


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
    sys.modules.setdefault(path.stem, module)  # dataclasses and others look their module up
    here = str(path.resolve().parent)
    if here not in sys.path:  # as when the file is run: it may import its neighbours
        sys.path.insert(0, here)
    run_author(f"Running {path}", lambda: loader.exec_module(module))
    return module


def run_author(what: str, action: Callable[[], Any]) -> Any:
    """Runs code of the network's author; `what` says what that is.

    Raises:
        TargetError: it raises anything, or wants to end the process.
    """
    try:
        return action()
    except (Exception, SystemExit) as error:
        raise TargetError(f"{what} failed: {in_words(error)}") from error


def _check_signature(target: str, function: Any, arguments: Mapping[str, object]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # built in C, says nothing of itself
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise TargetError(
            f"{target}{signature} does not take these arguments: {first_line(error)}."
        ) from error


def _is_candidate(name: str, value: object, module: ModuleType) -> bool:
    own = getattr(value, "__module__", None) == module.__name__
    return not name.startswith("_") and (isinstance(value, nn.Module) or (callable(value) and own))


def _shown(arguments: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
