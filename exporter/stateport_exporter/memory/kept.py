# SPDX-License-Identifier: Apache-2.0
"""What a network keeps from call to call: everything that its author's code can write to.

This is in attributes and buffers of its modules, in attributes of their classes, and in what the
author's functions name or close over. A slot is one place that keeps a value. The value may have
slots itself, as the items of a list are.
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
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from stateport.picking import without

from ..network.blame import is_authors
from ..network.object_attributes import attributes_of, slots_of
from .unknown import name_of

#: The attributes that `nn.Module` uses itself.
OWN_ATTRIBUTES: Final = frozenset(vars(nn.Module())) - {"training"}
#: Types, besides iterators, whose values change when they are used.
_MOVING: Final = (
    *(random.Random, np.random.Generator, np.random.RandomState, torch.Generator),
    *(ContextVar,),
)
#: Python's types that are nothing but their attributes.
_HOLDERS: Final = (
    *(SimpleNamespace, argparse.Namespace, threading.local),
    *(UserDict, UserList, UserString, queue.Queue),
)
#: Types that hold items; subclasses may compute what they give.
_CONTAINERS: Final[tuple[Any, ...]] = (dict, list, tuple, deque)
#: Types whose text says all that a value is.
_SHOWN_WHOLE: Final = (type(None), bool, int, float, complex, str, bytes, np.generic)
#: The number of items at each end of a container that are examined.
_MOST_ITEMS: Final = 64
#: The depth to which values inside values are examined.
_DEEPEST: Final = 6
#: Larger tensors are not read, since PyTorch itself counts writes to them.
_MOST_BYTES: Final = 1 << 24


class Uncached:
    """A function in place of the one that `functools.lru_cache` made of it.

    Args:
        cache: the function with a cache.
        keeps: whether results are kept, as by the other one. The author's cache is never used.
    """

    def __init__(self, cache: Any, *, keeps: bool = False) -> None:
        self.cache = cache
        self.__wrapped__ = cache.__wrapped__
        self._function = functools.lru_cache(None)(self.__wrapped__) if keeps else self.__wrapped__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The result of the function."""
        return self._function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type) -> Any:
        """The bound method, where it is an attribute of a class."""
        if instance is None:
            return self
        return MethodType(self, instance)

    def __deepcopy__(self, memo: dict[int, Any]) -> Uncached:
        return self

    def cache_clear(self) -> None:
        """Does nothing: there is no cache."""

    def cache_info(self) -> Any:
        """What the author's cache says of itself."""
        return self.cache.cache_info()


#: Functions that keep their results: `functools.lru_cache`, and what takes its place here.
CACHES: Final = (functools._lru_cache_wrapper, Uncached)


@dataclass(frozen=True, eq=False)
class Slot:
    """A place that keeps a value.

    Here it is an item of a dict, list or deque, or an attribute of an object, which is an item of
    the object's dict. Subclasses are other places.

    Attributes:
        name: its name in messages.
        holder: what the slot belongs to.
        key: the key, index or name in the holder.
        shared: whether it belongs to no copy of the network, as globals and classes' attributes.
    """

    name: str
    holder: Any
    key: Any
    shared: bool

    @property
    def value(self) -> Any:
        """The value that is there now."""
        return stored(self.holder, self.key)

    def put(self, value: Any) -> None:
        """Puts another value there."""
        self.holder[self.key] = value

    def remove(self) -> None:
        """Removes the slot, if it is an item of a dict or an attribute of an object or class."""
        if isinstance(self.holder, MutableMapping):
            self.holder.pop(self.key, None)


class _ClassAttribute(Slot):
    """An attribute of a class."""

    @property
    def value(self) -> Any:
        """The value that is there now."""
        return vars(self.holder)[self.key]

    def put(self, value: Any) -> None:
        """Puts another value there."""
        setattr(self.holder, self.key, value)

    def remove(self) -> None:
        """Removes the attribute."""
        delattr(self.holder, self.key)


class _Default(Slot):
    """The default arguments of a function."""

    @property
    def value(self) -> Any:
        """The tuple of default arguments."""
        return self.holder.__defaults__

    def put(self, value: Any) -> None:
        """Puts another tuple there."""
        self.holder.__defaults__ = value


class _Variable(Slot):
    """A variable that a function closes over; the holder is its cell."""

    @property
    def value(self) -> Any:
        """The value that is there now."""
        return self.holder.cell_contents

    def put(self, value: Any) -> None:
        """Puts another value there."""
        self.holder.cell_contents = value


class _TupleItem(Slot):
    """An item of a tuple; the holder is the slot of the tuple, which gets a new one."""

    @property
    def value(self) -> Any:
        """The value that is there now."""
        return self.holder.value[self.key]

    def put(self, value: Any) -> None:
        """Puts a tuple with another item into the holder."""
        items = list(self.holder.value)
        items[self.key] = value
        kind = type(self.holder.value)
        is_named_tuple = hasattr(kind, "_fields")
        new_tuple = kind(*items) if is_named_tuple else kind(items)
        self.holder.put(new_tuple)


def stored(holder: Any, key: Any) -> Any:
    """What a container holds at a key or index.

    The method of a subclass does not run: a dict of the author's may import a module for each item,
    and raise any error.
    """
    for kind in _CONTAINERS:
        if isinstance(holder, kind):
            return kind.__getitem__(holder, key)
    return holder[key]


def keys_of(container: Any) -> list[Any]:
    """The keys or indices of the first and last items in a container; all if they are few."""
    if isinstance(container, dict):
        return _ends(list(dict.keys(container)))
    sizes = [kind.__len__(container) for kind in _CONTAINERS if isinstance(container, kind)]
    return _ends(range(sizes[0]))


def slots(network: nn.Module) -> dict[str, Slot]:
    """The slots of a network and of its author's code, by name; outer ones before inner ones."""
    collector = _Collector()
    for slot in _slots_of_object("", network, shared=False):
        collector.add(slot)

    code = authored(network)
    for kind in code.classes:
        for slot in _slots_of_class(kind):
            collector.add(slot)
    for function in code.functions:
        for slot in _slots_of_function(function):
            collector.add(slot)

    return collector.slots


def contents(network: nn.Module) -> dict[str, Any]:
    """The contents of a network's slots, by name, in a form that can be compared later."""
    return {name: _content(slot.value) for name, slot in slots(network).items()}


def shared_names(network: nn.Module) -> set[str]:
    """The names of slots that all copies of the network share, as globals."""
    return {name for name, slot in slots(network).items() if slot.shared}


def cache_slots(network: nn.Module) -> list[Slot]:
    """The places of functions with `functools.lru_cache` that a network can reach."""
    code = authored(network)
    found = list(_own_slots(network))
    for kind in code.classes:
        names = list(vars(kind))
        found += [
            _ClassAttribute(f"{kind.__qualname__}.{name}", kind, name, True) for name in names
        ]
    for function in code.functions:
        found += _all_slots_of_function(function)
    return [slot for slot in found if isinstance(slot.value, CACHES)]


def _own_slots(network: nn.Module) -> Iterator[Slot]:
    """The attributes of a network's modules."""
    for path, module in network.named_modules():
        yield from _slots_of_object(path, module, shared=False)


@contextlib.contextmanager
def unchanged_shared(network: nn.Module) -> Iterator[None]:
    """Puts back globals and classes' attributes that the author's code changes inside."""
    before = {}
    for name, slot in slots(network).items():
        if slot.shared:
            before[name] = slot

    saved = [(slot, slot.value, _copy_inside(slot.value)) for slot in before.values()]

    try:
        yield
    finally:
        for slot, value, inside in saved:
            if inside is not None:
                _fill(value, inside)
            _put_back(slot, value)

        _remove_new(network, before.keys())


def _put_back(slot: Slot, value: Any) -> None:
    # What held the slot may be gone.
    with contextlib.suppress(LookupError, TypeError, AttributeError):
        if slot.value is not value:
            slot.put(value)


def _remove_new(network: nn.Module, before: Collection[str]) -> None:
    """Removes new shared slots; `before` are the names of the old ones."""
    for name, slot in slots(network).items():
        if slot.shared and name not in before:
            with contextlib.suppress(LookupError, AttributeError):
                slot.remove()


@contextlib.contextmanager
def replaced_builtins(
    network: nn.Module, replacements: Mapping[str, Callable[..., Any]]
) -> Iterator[None]:
    """Replaces Python's built-in functions, by name, wherever the network's author calls them."""
    changed: list[tuple[dict[str, Any], str]] = []

    try:
        for function in authored(network).functions:
            names = function.__globals__
            # A name that is a global already is no built-in function there.
            for name in replacements.keys() & names_in(function.__code__) - names.keys():
                names[name] = replacements[name]
                changed.append((names, name))

        yield
    finally:
        for names, name in changed:
            del names[name]


@dataclass
class Authored:
    """The author's functions and classes that a network can reach, each once."""

    functions: list[FunctionType] = field(default_factory=list)
    classes: list[type] = field(default_factory=list)


def authored(network: nn.Module) -> Authored:
    """The author's code in a network: the methods of its modules, and all that these may call."""
    code, seen = Authored(), set[int]()
    waiting: list[Any] = [*network.modules()]
    while waiting:
        value = waiting.pop()
        is_done = id(value) in seen or name_of(value) is not None
        if is_done or isinstance(value, Tensor | ModuleType):
            continue

        seen.add(id(value))
        value = _unwrap(value)
        if isinstance(value, FunctionType) and is_authors(value.__code__.co_filename):
            code.functions.append(value)
            waiting += _values_of_function(value)
        elif isinstance(value, type) and _is_authors_class(value):
            code.classes.append(value)
            waiting += [*vars(value).values(), *value.__mro__[1:]]
        else:
            waiting += _values_inside(value)
    return code


def _unwrap(value: Any) -> Any:
    """The function in a method, a partial call or a cache; any other value as it is."""
    if isinstance(value, MethodType | staticmethod | classmethod):
        return value.__func__
    if isinstance(value, functools.partial):
        return value.func
    if isinstance(value, CACHES):
        return value.__wrapped__

    return value


def _values_of_function(function: FunctionType) -> list[Any]:
    """The values that a function names or closes over, and the function that it wraps."""
    values = [slot.value for slot in _slots_of_function(function, code=True)]
    return [*values, getattr(function, "__wrapped__", None)]


def _values_inside(value: Any) -> list[Any]:
    """The functions of a property, the items of a container, or the attributes of an object."""
    if isinstance(value, property):
        return [value.fget, value.fset]
    if isinstance(value, _CONTAINERS):
        return [stored(value, key) for key in keys_of(value)]
    if is_holder(value):
        return [type(value), *attributes_of(value).values()]

    return []


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> frozenset[str]:
    """The names of globals and attributes in a function's code, and in functions inside it."""
    inner = []
    for part in code.co_consts:
        if isinstance(part, CodeType):
            inner.append(names_in(part))

    # pytest puts names such as "@pytest_ar" into assertions, which are no identifiers.
    own = filter(str.isidentifier, code.co_names)
    return frozenset(own).union(*inner)


@functools.lru_cache(maxsize=4096)
def constants_in(code: CodeType) -> tuple[Any, ...]:
    """The constants in a function's code, and behind them those in functions inside it."""
    own: list[Any] = []
    inner: list[Any] = []

    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner += constants_in(constant)
        else:
            own.append(constant)

    return (*own, *inner)


def _slots_of_class(kind: type) -> Iterator[Slot]:
    for key, value in vars(kind).items():
        if not key.startswith("__") and not _is_code(value):
            yield _ClassAttribute(f"{kind.__qualname__}.{key}", kind, key, shared=True)


def _slots_of_function(function: FunctionType, *, code: bool = False) -> Iterator[Slot]:
    """The slots that a function can write to; with `code`, also those that it may call."""
    for slot in _all_slots_of_function(function):
        if code or not _is_code(slot.value):
            yield slot


def _all_slots_of_function(function: FunctionType) -> Iterator[Slot]:
    name = function.__qualname__
    yield from _slots_of_globals(function)
    yield from _slots_of_closure(function)
    if function.__defaults__:
        yield _Default(f"the defaults of {name}", function, "__defaults__", shared=True)
    for key in vars(function):
        yield Slot(f"{name}.{key}", vars(function), key, shared=True)


def _slots_of_globals(function: FunctionType) -> Iterator[Slot]:
    """The globals that a function names, and those of the author's modules among them."""
    names = names_in(function.__code__)
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        yield Slot(f"{name} in {function.__module__}", function.__globals__, name, shared=True)
        if not _is_authors_module(value):
            continue

        for inner in sorted(names & vars(value).keys()):
            yield Slot(f"{inner} in {value.__name__}", vars(value), inner, shared=True)


def _slots_of_closure(function: FunctionType) -> Iterator[Slot]:
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        if not _is_empty(cell):
            yield _Variable(f"{name} around {function.__qualname__}", cell, "", shared=True)


def _is_empty(cell: CellType) -> bool:
    """Whether a variable has no value yet."""
    try:
        _ = cell.cell_contents
    except ValueError:
        return True
    return False


def _slots_of_object(name: str, value: Any, *, shared: bool) -> Iterator[Slot]:
    """The slots of an object's attributes."""
    prefix = f"{name}." if name else ""
    holders = [attributes_of(value)]
    if isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule):
        holders += [value._parameters, value._buffers, value._modules]

    own = OWN_ATTRIBUTES if isinstance(value, nn.Module) else frozenset()
    for holder in holders:
        for key in without(holder, own):
            yield Slot(f"{prefix}{key}", holder, key, shared)


class _Collector:
    """Collects slots and the slots inside their values, each value once."""

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}
        self._seen: set[int] = set()

    def add(self, slot: Slot, depth: int = 0) -> None:
        """Adds a slot and those inside it; modules themselves are no slots, only their content."""
        value = slot.value
        if slot.name in self.slots or name_of(value) is not None:
            return

        is_module = isinstance(value, nn.Module)
        if not is_module:
            self.slots[slot.name] = slot
        if depth >= _DEEPEST or id(value) in self._seen:
            return

        # The depth of modules in modules does not count.
        inner_depth = depth if is_module else depth + 1
        for inner in _slots_inside(slot, value):
            self._seen.add(id(value))
            self.add(inner, inner_depth)


def _slots_inside(slot: Slot, value: Any) -> Iterator[Slot]:
    """The slots of a container's items, or of an object's attributes."""
    name, shared = slot.name, slot.shared
    if isinstance(value, dict):
        for key in keys_of(value):
            yield Slot(f"{name}[{_label(key):.40}]", value, key, shared)
    elif isinstance(value, list | deque):
        for index in keys_of(value):
            yield Slot(f"{name}[{index}]", value, index, shared)
    elif isinstance(value, tuple):
        for index in keys_of(value):
            yield _TupleItem(f"{name}[{index}]", slot, index, shared)
    elif is_holder(value):
        yield from _slots_of_object(name, value, shared=shared)


def _ends(items: Sequence[Any]) -> list[Any]:
    """The first and last items; all if they are few."""
    if len(items) <= 2 * _MOST_ITEMS:
        return [*items]

    return [*items[:_MOST_ITEMS], *items[-_MOST_ITEMS:]]


def _is_code(value: Any) -> bool:
    """Whether a value is called or imported, so it keeps nothing but what other slots hold."""
    return callable(value) or isinstance(value, ModuleType | staticmethod | classmethod | property)


def is_holder(value: Any) -> bool:
    """Whether an object's attributes are slots."""
    if isinstance(value, type | FunctionType | ModuleType) or not _has_attributes(value):
        return False

    return isinstance(value, (nn.Module, *_HOLDERS)) or _is_authors_class(type(value))


def _has_attributes(value: Any) -> bool:
    try:
        kind: type = type(value)
        return hasattr(value, "__dict__") or bool(slots_of(kind))
    except Exception:  # a placeholder may refuse every access, as those of pydantic do
        return False


def _is_authors_class(kind: type) -> bool:
    if kind.__module__ == "__main__":
        return True

    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return file is not None and is_authors(file)


def _is_authors_module(value: Any) -> bool:
    # `type`, because a proxy may claim to be a module by its `__class__`.
    if not issubclass(type(value), ModuleType):
        return False

    return is_authors(getattr(value, "__file__", None) or "")


def _content(value: Any) -> Any:
    """A value in a form that can be compared, without what its inner slots hold."""
    if isinstance(value, _SHOWN_WHOLE):
        return type(value), repr(value)
    if isinstance(value, Tensor):
        return _content_of_tensor(value)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, zlib.crc32(value.tobytes())
    if isinstance(value, dict):
        return type(value), dict.__len__(value), tuple(map(_label, keys_of(value)))
    if isinstance(value, list | tuple | deque):
        return type(value), len(value)
    if isinstance(value, set | frozenset | bytearray):
        return type(value), len(value), hash(frozenset(map(_label, value)))

    return type(value), None if is_holder(value) else _identity(value)


def _label(key: Any) -> str:
    """A text for a key of a dict or an item of a set, different for different ones."""
    has_own_text = isinstance(key, str | bytes | int | float | tuple | None)
    return repr(key) if has_own_text else f"{type(key).__qualname__} {id(key)}"


def _content_of_tensor(tensor: Tensor) -> Any:
    """The dtype and shape, and a checksum of the data or PyTorch's count of writes."""
    if isinstance(tensor, nn.Parameter) or not _is_small(tensor):
        writes = None if tensor.is_inference() else tensor._version
        return tensor.dtype, tuple(tensor.shape), tensor.data_ptr(), writes

    try:
        data = tensor.detach().contiguous().view(torch.uint8).numpy()
        return tensor.dtype, tuple(tensor.shape), zlib.crc32(data.tobytes())
    except (RuntimeError, TypeError):  # sparse, quantized
        return tensor.dtype, tuple(tensor.shape), id(tensor), tensor._version


def _is_small(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() <= _MOST_BYTES


def _identity(value: Any) -> Any:
    """The id of an object; a new object for one that changes when it is used, without a trace."""
    moves = isinstance(value, _MOVING) or hasattr(type(value), "__next__")
    return object() if moves else id(value)


def _copy_inside(value: Any) -> Any:
    """A copy of what changes in place, None for any other value."""
    # Not for subclasses, with which PyTorch traces.
    if type(value) in (Tensor, nn.Parameter) and _is_small(value):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()

    if type(value) in (list, dict, set, deque):
        return copy.copy(value)
    return None


def _fill(value: Any, inside: Any) -> None:
    """Gives something that changes in place its former content."""
    if isinstance(value, Tensor):
        if not torch.equal(value, inside):
            value.detach().copy_(inside)
    elif isinstance(value, np.ndarray | list):
        value[:] = inside
    else:
        value.clear()
        value.extend(inside) if isinstance(value, deque) else value.update(inside)
