# SPDX-License-Identifier: Apache-2.0
"""A copy of a module, also where `copy.deepcopy` refuses one.

Modules hold things that no copy of the network needs: loggers, locks, open files that are written,
imported modules. Others are computed again in every call, as a weight under weight_norm.
"""

from __future__ import annotations

import contextlib
import copy
import copyreg
import io
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode

from stateport.errors import in_words
from stateport.picking import instances_of

from ..errors import ExportError

Module = TypeVar("Module", bound=nn.Module)


def copy_of(module: Module, memo: Mapping[int, object]) -> Module:
    """A deep copy of a module.

    Args:
        module: the module. It does not change.
        memo: what the copy has in place of some objects, by their ids.

    Raises:
        ExportError: the module holds something that cannot be copied.
    """
    # A logger belongs to the process, not to the network, and some cannot be copied.
    loggers = {id(logger): logger for logger in _loggers_in(module)}
    try:
        with _ComputedTensors(), _copied_as_new():
            return _deep_copy(module, {**memo, **loggers})
    except (Exception, SystemExit) as error:  # whatever a __deepcopy__ or an attribute raises
        raise ExportError(
            f"{type(module).__qualname__} cannot be copied ({in_words(error)}), so it cannot be "
            "exported without changing it. Remove attributes that hold generators, sockets, or "
            "files that are read."
        ) from error


def check_initialised(module: nn.Module) -> None:
    """Refuses parameters that have no values yet, as those of `nn.LazyLinear`.

    Raises:
        ExportError: with the first of them.
    """
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ExportError(
                f"{name!r} has no values yet: a lazy layer gets them in its first call. Call the "
                "network once, and load its trained weights, before it is exported."
            )


def _deep_copy(module: Module, memo: Mapping[int, object]) -> Module:
    """Copies a module; where its own `__deepcopy__` fails, by its attributes."""
    try:
        return copy.deepcopy(module, dict(memo))
    except (Exception, SystemExit):  # a __deepcopy__ of the author's may raise anything
        own = [*filter(_copies_itself, module.modules())]

        if not own:
            raise

    filled = dict(memo)
    for part in own:
        filled[id(part)] = type(part).__new__(type(part))
    for part in own:
        vars(filled[id(part)]).update(copy.deepcopy(vars(part), filled))
    return copy.deepcopy(module, filled)


def _copies_itself(part: nn.Module) -> bool:
    """Whether the class of a module has a `__deepcopy__`; TorchScript's has to be used."""
    return hasattr(type(part), "__deepcopy__") and not isinstance(part, torch.jit.ScriptModule)


def _loggers_in(module: nn.Module) -> Iterator[logging.Logger]:
    for part in module.modules():
        yield from instances_of(logging.Logger, vars(part).values())


class _ComputedTensors(TorchFunctionMode):
    """Copies the values of tensors that were computed from parameters, which PyTorch refuses.

    A weight under weight_norm or pruning of old is one. It is computed again in every forward.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of `TorchFunctionMode`."""
        is_copy = func is Tensor.__deepcopy__
        if is_copy and type(args[0]) is Tensor and args[0].grad_fn is not None:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _new_local(local: threading.local) -> tuple[Any, ...]:
    return _local_with, (dict(vars(local)),)


def _local_with(values: Mapping[str, Any]) -> threading.local:
    local = threading.local()
    vars(local).update(values)
    return local


def _written_file(file: Any) -> tuple[Any, ...]:
    """A file that takes what is written and keeps nothing.

    Raises:
        TypeError: the file is read, so that results may depend on what is in it.
    """
    if not file.closed and file.readable():
        raise TypeError(f"the file {getattr(file, 'name', '')!r} is read")
    return open, (os.devnull, "w" if isinstance(file, io.TextIOBase) else "wb")


def _itself(value: Any) -> tuple[Any, ...]:
    return _same, (_Held(value),)


class _Held:
    """Keeps a value from being copied."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self


def _same(held: _Held) -> Any:
    return held.value


#: Types that `copy.deepcopy` refuses, and what takes their place.
_AS_NEW: Final[dict[type, Callable[[Any], Any]]] = {
    type(threading.Lock()): lambda _: (threading.Lock, ()),
    type(threading.RLock()): lambda _: (threading.RLock, ()),
    threading.local: _new_local,
    ModuleType: _itself,
    io.TextIOWrapper: _written_file,
    io.BufferedWriter: _written_file,
}


@contextlib.contextmanager
def _copied_as_new() -> Iterator[None]:
    """Lets `copy.deepcopy` make new locks, and leave imported modules as they are."""
    table: dict[Any, Any] = copyreg.dispatch_table

    added = {}
    for kind, reduce in _AS_NEW.items():
        if kind not in table:
            added[kind] = reduce

    table.update(added)
    try:
        yield
    finally:
        for kind in added:
            table.pop(kind, None)
