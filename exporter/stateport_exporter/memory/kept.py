"""What a network keeps from call to call: everything that its author's code can write to.

That stands in attributes and buffers of its modules, in attributes of their classes, and in what
the author's functions name or close over. A slot is one such place; slots stand in slots, as the
items of a list do.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import queue
import random
import sys
import threading
import zlib
from collections import UserDict, UserList, UserString, deque
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ..network.blame import is_authors
from .unknown import name_of

#: What `nn.Module` keeps for itself.
_OWN: Final = frozenset(vars(nn.Module())) - {"training"}
#: What moves on by being used, besides iterators.
_MOVING: Final = (
    *(random.Random, np.random.Generator, np.random.RandomState, torch.Generator),
    *(ContextVar,),
)
#: Python's own objects that are nothing but their attributes.
_HOLDERS: Final = (
    *(SimpleNamespace, argparse.Namespace, threading.local),
    *(UserDict, UserList, UserString, queue.Queue),
)
#: Of longer containers the first and last items are looked at; and so deep into others.
_MOST_ITEMS: Final = 64
_DEEPEST: Final = 6
#: Larger tensors are not read: PyTorch itself counts writes to them.
_MOST_BYTES: Final = 1 << 24


@dataclass(frozen=True, eq=False)
class Slot:
    """A place that keeps a value: its name, as people write it, and where it is.

    `shared` ones belong to no copy of the network: globals, attributes of classes.
    """

    name: str
    holder: Any
    key: Any
    shared: bool

    @property
    def value(self) -> Any:
        """What is in it."""
        if isinstance(self.holder, CellType):
            return self.holder.cell_contents
        if isinstance(self.holder, Slot):
            return self.holder.value[self.key]
        if isinstance(self.holder, dict | list | deque):
            return self.holder[self.key]
        return vars(self.holder)[self.key]

    def put(self, value: Any) -> None:
        """Puts another value there."""
        if isinstance(self.holder, CellType):
            self.holder.cell_contents = value
        elif isinstance(self.holder, Slot):  # an item of a tuple
            items = list(self.holder.value)
            items[self.key] = value
            kind = type(self.holder.value)
            self.holder.put(kind(*items) if hasattr(kind, "_fields") else kind(items))
        elif isinstance(self.holder, dict | list | deque):
            self.holder[self.key] = value
        else:
            setattr(self.holder, self.key, value)


def slots(network: nn.Module) -> dict[str, Slot]:
    """The slots of a network and of its author's code, by name; outer ones before inner ones."""
    found: dict[str, Slot] = {}
    seen: set[int] = set()
    for name, holder, key in _of_object("", network):
        _add(Slot(name, holder, key, shared=False), found, seen, 0)
    code = authored(network)
    for kind in code.classes:
        for key, value in vars(kind).items():
            if not key.startswith("__") and not _is_code(value):
                _add(Slot(f"{kind.__qualname__}.{key}", kind, key, shared=True), found, seen, 0)
    for function in code.functions:
        for slot in _of_function(function):
            _add(slot, found, seen, 0)
    return found


def contents(network: nn.Module) -> dict[str, Any]:
    """What is in a network's slots, by name, in a form that can be compared later."""
    return {name: _content(slot.value) for name, slot in slots(network).items()}


@contextlib.contextmanager
def unchanged_shared(network: nn.Module) -> Iterator[None]:
    """Globals and classes' attributes that the author's code changes are put back at the end."""
    before = {name: slot for name, slot in slots(network).items() if slot.shared}
    saved = [(slot, slot.value, _inside_of(slot.value)) for slot in before.values()]
    try:
        yield
    finally:
        for slot, value, inside in saved:
            if inside is not None:
                _fill(value, inside)
            with contextlib.suppress(LookupError, TypeError, AttributeError):
                if slot.value is not value:
                    slot.put(value)
        for name, slot in slots(network).items():
            if slot.shared and name not in before and isinstance(slot.holder, dict | type):
                with contextlib.suppress(LookupError, AttributeError):
                    _remove(slot)


@dataclass
class Authored:
    """The functions and classes of the author's that a network can reach, each once."""

    functions: list[FunctionType] = field(default_factory=list)
    classes: list[type] = field(default_factory=list)


def authored(network: nn.Module) -> Authored:
    """The author's code behind a network: its methods, and what these call."""
    found, seen = Authored(), set[int]()
    waiting: list[Any] = [*network.modules()]
    while waiting:
        value = waiting.pop()
        known = id(value) in seen or name_of(value) is not None
        if known or isinstance(value, Tensor | ModuleType):
            continue
        seen.add(id(value))
        if isinstance(value, MethodType | staticmethod | classmethod):
            value = value.__func__
        elif isinstance(value, functools.partial):
            value = value.func
        if isinstance(value, FunctionType) and is_authors(value.__code__.co_filename):
            found.functions.append(value)
            waiting += [slot.value for slot in _of_function(value, code=True)]
            waiting.append(getattr(value, "__wrapped__", None))
        elif isinstance(value, property):
            waiting += [value.fget, value.fset]
        elif isinstance(value, type) and _is_theirs(value):
            found.classes.append(value)
            waiting += [*vars(value).values(), *value.__mro__[1:]]
        elif isinstance(value, list | tuple | deque):
            waiting += [value[at] for at in _ends(range(len(value)))]
        elif isinstance(value, dict):
            waiting += _ends(list(value.values()))
        elif _is_holder(value):
            waiting += [type(value), *vars(value).values()]
    return found


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> frozenset[str]:
    """The names of globals and attributes in a function's code, and in functions inside it."""
    inner = [names_in(part) for part in code.co_consts if isinstance(part, CodeType)]
    # pytest puts names of its own into assertions, "@pytest_ar", which nobody can write.
    own = (name for name in code.co_names if name.isidentifier())
    return frozenset(own).union(*inner)


@functools.lru_cache(maxsize=4096)
def constants_in(code: CodeType) -> tuple[Any, ...]:
    """The constants in a function's code, and in functions inside it."""
    inner = [constants_in(part) for part in code.co_consts if isinstance(part, CodeType)]
    own = [part for part in code.co_consts if not isinstance(part, CodeType)]
    return (*own, *(part for parts in inner for part in parts))


def _of_function(function: FunctionType, *, code: bool = False) -> Iterator[Slot]:
    """What a function can write to; with `code`, what it may call as well."""
    named, file = names_in(function.__code__), function.__module__
    places: list[tuple[str, Any, Any]] = []
    for name in sorted(named & function.__globals__.keys()):
        value = function.__globals__[name]
        places.append((f"{name} in {file}", function.__globals__, name))
        if issubclass(type(value), ModuleType) and is_authors(
            getattr(value, "__file__", None) or ""
        ):
            places += [
                (f"{inner} in {value.__name__}", vars(value), inner)
                for inner in sorted(named & vars(value).keys())
            ]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # which is nothing yet
            _ = cell.cell_contents
            places.append((f"{name} around {function.__qualname__}", cell, ""))
    if function.__defaults__:
        places.append((f"the defaults of {function.__qualname__}", function, "__defaults__"))
    places += [(f"{function.__qualname__}.{name}", vars(function), name) for name in vars(function)]
    for name, holder, key in places:
        slot = (_Default if key == "__defaults__" else Slot)(name, holder, key, shared=True)
        if code or not _is_code(slot.value):
            yield slot


class _Default(Slot):
    """The default arguments of a function."""

    @property
    def value(self) -> Any:
        """What they are."""
        return self.holder.__defaults__


def _of_object(name: str, value: Any) -> Iterator[tuple[str, Any, Any]]:
    """An object's attributes: the name, where it is held, and the key there."""
    begin = f"{name}." if name else ""
    holders = [vars(value)]
    if isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule):
        holders += [value._parameters, value._buffers, value._modules]
    own = _OWN if isinstance(value, nn.Module) else frozenset()
    for holder in holders:
        yield from ((f"{begin}{key}", holder, key) for key in holder if key not in own)


def _add(slot: Slot, found: dict[str, Slot], seen: set[int], depth: int) -> None:
    value = slot.value
    if slot.name in found or name_of(value) is not None:
        return
    if not isinstance(value, nn.Module):
        found[slot.name] = slot
    if depth >= _DEEPEST or id(value) in seen:
        return
    for inner in _inside(slot, value):
        seen.add(id(value))
        # The depth of modules in modules does not count.
        _add(inner, found, seen, depth + (not isinstance(value, nn.Module)))


def _inside(slot: Slot, value: Any) -> Iterator[Slot]:
    name, shared = slot.name, slot.shared
    if isinstance(value, dict):
        for key in _ends(list(value)):
            yield Slot(f"{name}[{_label(key):.40}]", value, key, shared)
    elif isinstance(value, list | deque):
        for index in _ends(range(len(value))):
            yield Slot(f"{name}[{index}]", value, index, shared)
    elif isinstance(value, tuple):
        for index in _ends(range(len(value))):
            yield Slot(f"{name}[{index}]", slot, index, shared)
    elif _is_holder(value):
        for inner, holder, key in _of_object(name, value):
            yield Slot(inner, holder, key, shared)


def _ends(items: Any) -> list[Any]:
    if len(items) <= 2 * _MOST_ITEMS:
        return [*items]
    return [*items[:_MOST_ITEMS], *items[-_MOST_ITEMS:]]


def _is_code(value: Any) -> bool:
    """Whether a value is called or imported, and keeps nothing that is no slot of its own."""
    return callable(value) or isinstance(value, ModuleType | staticmethod | classmethod | property)


def _is_holder(value: Any) -> bool:
    """Whether an object's attributes are slots."""
    if isinstance(value, type | FunctionType | ModuleType) or not hasattr(value, "__dict__"):
        return False
    return isinstance(value, (nn.Module, *_HOLDERS)) or _is_theirs(type(value))


def _is_theirs(kind: type) -> bool:
    if kind.__module__ == "__main__":
        return True
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return file is not None and is_authors(file)


def _content(value: Any) -> Any:
    """What a value is, without what stands in slots of its own."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return type(value), repr(value)
    if isinstance(value, np.generic):
        return type(value), repr(value)
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, zlib.crc32(value.tobytes())
    if isinstance(value, dict):
        return type(value), len(value), tuple(map(_label, _ends(list(value))))
    if isinstance(value, list | tuple | deque):
        return type(value), len(value)
    if isinstance(value, set | frozenset | bytearray):
        return type(value), len(value), hash(frozenset(map(_label, value)))
    return type(value), None if _is_holder(value) else _standing(value)


def _label(key: Any) -> str:
    """A key of a dict, as text that is its own."""
    plain = isinstance(key, str | bytes | int | float | tuple | None)
    return repr(key) if plain else f"{type(key).__qualname__} {id(key)}"


def _tensor(tensor: Tensor) -> Any:
    small = tensor.numel() * tensor.element_size() <= _MOST_BYTES
    if isinstance(tensor, nn.Parameter) or not small:
        written = None if tensor.is_inference() else tensor._version
        return tensor.dtype, tuple(tensor.shape), tensor.data_ptr(), written
    try:
        data = tensor.detach().contiguous().view(torch.uint8).numpy()
        return tensor.dtype, tuple(tensor.shape), zlib.crc32(data.tobytes())
    except (RuntimeError, TypeError):  # sparse, quantized
        return tensor.dtype, tuple(tensor.shape), id(tensor), tensor._version


def _standing(value: Any) -> Any:
    """Of what moves on by being used nobody sees where it stands: it counts as something else."""
    moves = isinstance(value, _MOVING) or hasattr(type(value), "__next__")
    return object() if moves else id(value)


def _inside_of(value: Any) -> Any:
    """A copy of what changes in place, None for all else."""
    plain = type(value) in (Tensor, nn.Parameter)  # and none that PyTorch traces with
    if plain and value.numel() * value.element_size() <= _MOST_BYTES:
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    return copy.copy(value) if type(value) in (list, dict, set, deque) else None


def _fill(value: Any, inside: Any) -> None:
    """Gives something that changes in place what was in it."""
    if isinstance(value, Tensor):
        if not torch.equal(value, inside):
            value.detach().copy_(inside)
    elif isinstance(value, np.ndarray | list):
        value[:] = inside
    else:
        value.clear()
        value.extend(inside) if isinstance(value, deque) else value.update(inside)


def _remove(slot: Slot) -> None:
    if isinstance(slot.holder, dict):
        slot.holder.pop(slot.key, None)
    else:
        delattr(slot.holder, slot.key)
