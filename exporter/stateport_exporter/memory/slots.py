"""Everything that a network may keep something in.

A slot is an attribute, a global, a variable of a closure, a place in a list.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..authors import authored, cell_value, is_holder, named
from .contents import Environment, content

#: What `nn.Module` itself keeps; of these, parameters and buffers are slots.
_OWN: Final = frozenset(vars(nn.Module()))
#: What is called, and keeps nothing by itself; what it keeps it in is looked at.
_CODE: Final = (
    *(FunctionType, BuiltinFunctionType, MethodType, staticmethod, classmethod, property, type),
    *(ModuleType, functools.partial, functools._lru_cache_wrapper),
)
#: The name of the slot that the variables of the environment are.
ENVIRONMENT: Final = "os.environ"
#: Of longer containers, the first and the last items are looked at; and so deep into others.
_MOST_ITEMS: Final = 64
_DEEPEST: Final = 6
#: Larger tensors are not put back.
_MOST_BYTES: Final = 1 << 24


@dataclass(frozen=True, eq=False)
class Slot:
    """One slot: its name, as people write it, and where it is. `shared` ones are no copy's own."""

    name: str
    holder: Any
    key: Any
    shared: bool = False

    @property
    def value(self) -> Any:
        """What is in it."""
        if isinstance(self.holder, CellType):
            return cell_value(self.holder)
        if isinstance(self.holder, type):
            return vars(self.holder).get(self.key)
        if isinstance(self.holder, Slot):
            return self.holder.value[self.key]
        return self.holder[self.key]

    def put(self, value: Any) -> None:
        """Puts another value into it."""
        if isinstance(self.holder, CellType):
            self.holder.cell_contents = value
        elif isinstance(self.holder, type):
            setattr(self.holder, self.key, value)
        elif isinstance(self.holder, Slot):  # of a tuple
            items = list(self.holder.value)
            items[self.key] = value
            self.holder.put(type(self.holder.value)(items))
        else:
            self.holder[self.key] = value


def slots(network: nn.Module) -> dict[str, Slot]:
    """The slots of a network and of all code behind it, by name."""
    found: dict[str, Slot] = {}
    seen: set[Any] = set()
    for slot in _roots(network):
        _add(slot, found, seen, 0)
    return found


def contents(network: nn.Module) -> dict[str, Any]:
    """What is in a network's slots, by name, in a form that can be compared."""
    return {name: content(slot.value) for name, slot in slots(network).items()}


@contextlib.contextmanager
def put_back_shared(network: nn.Module) -> Iterator[None]:
    """What a network changes outside of itself, in globals and classes, is put back at the end."""
    before = {name: slot for name, slot in slots(network).items() if slot.shared}
    saved = [(slot, slot.value, _inner(slot.value)) for slot in before.values()]
    try:
        yield
    finally:
        for name, slot in slots(network).items():
            if slot.shared and name not in before and isinstance(slot.holder, dict):
                slot.holder.pop(slot.key, None)
        for slot, value, inner in saved:
            if inner is not None:
                _fill(value, inner)
            with contextlib.suppress(LookupError, TypeError, AttributeError):
                if slot.value is not value:
                    slot.put(value)


def _inner(value: Any) -> Any:
    """A copy of what changes in place, None for all else."""
    if isinstance(value, Tensor) and value.numel() * value.element_size() <= _MOST_BYTES:
        return value.detach().clone()
    return copy.copy(value) if type(value) in (list, dict, set, deque) else None


def _fill(value: Any, inner: Any) -> None:
    """Gives something that changes in place what was in it."""
    if isinstance(value, Tensor):
        if not torch.equal(value, inner):
            value.detach().copy_(inner)
    elif isinstance(value, list):
        value[:] = inner
    else:
        value.clear()
        value.extend(inner) if isinstance(value, deque) else value.update(inner)


def _roots(network: nn.Module) -> Iterator[Slot]:
    for path, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name in vars(module).keys() - _OWN:
            yield Slot(_joined(path, name), vars(module), name)
        for kept in (module._parameters, module._buffers):
            yield from (Slot(_joined(path, name), kept, name) for name in kept)
    reached = authored(network)
    for function in reached.functions:
        yield from _of_function(function)
    for kind in reached.classes:
        for name, value in vars(kind).items():
            if not name.startswith("__") and not isinstance(value, _CODE):
                yield Slot(f"{kind.__qualname__}.{name}", kind, name, shared=True)
    for value in reached.objects:
        if not isinstance(value, nn.Module):
            for holder, name in _attributes(value):
                yield Slot(f"{type(value).__qualname__}.{name}", holder, name, shared=True)
    if any(holder[key] is os.environ for f in reached.functions for holder, key in named(f)):
        yield Slot(ENVIRONMENT, {"": Environment()}, "", shared=True)


def _of_function(function: FunctionType) -> Iterator[Slot]:
    name = function.__qualname__
    file = Path(function.__code__.co_filename).name
    for holder, key in named(function):
        if not isinstance(holder[key], _CODE):
            yield Slot(f"{key} in {file}", holder, key, shared=True)
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield Slot(f"{key} around {name}", cell, "", shared=True)
    for number, value in enumerate(function.__defaults__ or ()):
        yield Slot(f"default {number} of {name}", {"": value}, "", shared=True)
    for key in vars(function):
        yield Slot(f"{name}.{key}", vars(function), key, shared=True)


def _add(slot: Slot, found: dict[str, Slot], seen: set[Any], depth: int) -> None:
    """Adds a slot, and those in what it holds; each once, by the first name."""
    where = id(slot.holder), slot.key if isinstance(slot.key, str | int) else id(slot.key)
    if slot.name in found or where in seen:
        return
    found[slot.name] = slot
    seen.add(where)
    value = slot.value
    if depth < _DEEPEST and id(value) not in seen:
        for inner in _inside(slot, value):
            seen.add(id(value))
            _add(inner, found, seen, depth + 1)


def _inside(slot: Slot, value: Any) -> Iterator[Slot]:
    name, shared = slot.name, slot.shared
    if isinstance(value, dict):
        for key in _ends(list(value)):
            yield Slot(f"{name}[{key!r:.40}]", value, key, shared)
    elif isinstance(value, list | deque):
        for index in _ends(range(len(value))):
            yield Slot(f"{name}[{index}]", value, index, shared)
    elif type(value) is tuple:
        for index in _ends(range(len(value))):
            yield Slot(f"{name}[{index}]", slot, index, shared)
    elif isinstance(value, ContextVar):
        yield Slot(f"{name}.value", _Variable(value), "", shared)
    elif is_holder(value) and not isinstance(value, nn.Module):
        for holder, key in _attributes(value):
            yield Slot(f"{name}.{key}", holder, key, shared)


def _attributes(value: Any) -> Iterator[tuple[Any, str]]:
    """An object's attributes: where each is held, and its name."""
    yield from ((vars(value), key) for key in getattr(value, "__dict__", ()))
    for kind in type(value).__mro__:
        names = vars(kind).get("__slots__", ())
        for key in (names,) if isinstance(names, str) else names:
            if key not in ("__dict__", "__weakref__") and hasattr(value, key):
                yield _Slotted(value), key


def _ends(items: Any) -> Iterator[Any]:
    if len(items) <= 2 * _MOST_ITEMS:
        yield from items
    else:
        yield from (*items[:_MOST_ITEMS], *items[-_MOST_ITEMS:])


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


class _Slotted:
    """The attributes of an object that has them in slots of its class."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __getitem__(self, key: str) -> Any:
        return getattr(self.value, key)

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self.value, key, value)


class _Variable:
    """What a context variable is in this context."""

    def __init__(self, variable: ContextVar[Any]) -> None:
        self.variable = variable

    def __getitem__(self, _: str) -> Any:
        return self.variable.get(None)

    def __setitem__(self, _: str, value: Any) -> None:
        self.variable.set(value)
