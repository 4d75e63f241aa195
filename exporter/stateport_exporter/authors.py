"""The code that a network's author wrote, as far as it can be reached from the network.

Everything that forward may read or change stands in the network's own attributes, or is named in a
function that can be reached from it: a method of a class, a function that this calls, a closure.
"""

from __future__ import annotations

import argparse
import functools
import queue
import sys
import threading
from collections import UserDict, UserList, UserString, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, Final

from torch import Tensor, nn

from .blame import is_authors

_PLAIN: Final = (type(None), bool, int, float, complex, str, bytes, Tensor, CodeType, ModuleType)
#: Python's own objects that are nothing but their attributes.
_HOLDERS: Final = (
    *(SimpleNamespace, argparse.Namespace, threading.local),
    *(UserDict, UserList, UserString, queue.Queue),
)


@dataclass
class Authored:
    """What can be reached: functions, classes, and objects with attributes, each once."""

    functions: list[FunctionType] = field(default_factory=list)
    classes: list[type] = field(default_factory=list)
    objects: list[Any] = field(default_factory=list)


def authored(network: nn.Module) -> Authored:
    """The author's code and objects behind a network; its modules are among the objects."""
    found, seen = Authored(), set[int]()
    waiting: list[Any] = list(network.modules())
    while waiting:
        value = waiting.pop()
        if isinstance(value, _PLAIN) or id(value) in seen:
            continue
        seen.add(id(value))
        waiting.extend(_behind(value, found))
    return found


def _behind(value: Any, found: Authored) -> Iterator[Any]:
    """What stands behind a value; it is added to what was reached, if it is the author's."""
    if isinstance(value, FunctionType):
        if is_authors(value.__code__.co_filename):
            found.functions.append(value)
            yield from _of_function(value)
        yield getattr(value, "__wrapped__", None)
    elif isinstance(value, type):
        if _is_theirs(value):
            found.classes.append(value)
            yield from (*vars(value).values(), *value.__mro__[1:])
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, property):
        yield from (value.fget, value.fset)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from value
    elif isinstance(value, dict):
        yield from (*value.values(),)
    else:
        yield from _of_object(value, found)


def _of_object(value: Any, found: Authored) -> Iterator[Any]:
    if isinstance(value, functools._lru_cache_wrapper):
        yield value.__wrapped__
    elif is_holder(value):
        found.objects.append(value)
        yield type(value)
        yield from getattr(value, "__dict__", {}).values()


def _of_function(function: FunctionType) -> Iterator[Any]:
    yield from (cell_value(cell) for cell in function.__closure__ or ())
    yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    yield from vars(function).values()
    yield from (holder[name] for holder, name in named(function))


def named(function: FunctionType) -> Iterator[tuple[dict[str, Any], str]]:
    """The globals that a function names, and what it names of other modules: holders and names."""
    names = names_in(function.__code__)
    names |= {text for text in constants_in(function.__code__) if isinstance(text, str)}
    for name in names:
        if name in function.__globals__:
            yield function.__globals__, name
            value = function.__globals__[name]
            if isinstance(value, ModuleType):
                for inner in names & vars(value).keys():
                    yield vars(value), inner


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> frozenset[str]:
    """The names of globals and attributes in a function's code, and in functions inside it."""
    inner = [names_in(part) for part in code.co_consts if isinstance(part, CodeType)]
    return frozenset(code.co_names).union(*inner)


@functools.lru_cache(maxsize=4096)
def constants_in(code: CodeType) -> frozenset[Any]:
    """The constants in a function's code, and in functions inside it."""
    inner = [constants_in(part) for part in code.co_consts if isinstance(part, CodeType)]
    own = [part for part in code.co_consts if not isinstance(part, CodeType)]
    return frozenset(own).union(*inner)


def cell_value(cell: Any) -> Any:
    """What a variable of a closure is; None where it is nothing yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def is_holder(value: Any) -> bool:
    """Whether an object's attributes are the author's."""
    return isinstance(value, (nn.Module, *_HOLDERS)) or _is_theirs(type(value))


def _is_theirs(kind: type) -> bool:
    return kind.__module__ == "__main__" or _is_authors_module(kind.__module__)


@functools.lru_cache(maxsize=4096)
def _is_authors_module(name: str) -> bool:
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    return module is None if file is None else is_authors(file)
