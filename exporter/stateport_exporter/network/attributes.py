# SPDX-License-Identifier: Apache-2.0
"""What a module keeps in attributes: copies for forward to change, and other tensors in them."""

from __future__ import annotations

import copy
import functools
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, Final

from torch import Tensor, nn

from .object_attributes import attributes_of, slots_of

_CONTAINERS: Final = (list, deque, dict, OrderedDict, defaultdict, set)
#: What every module has: its parameters, its parts, its hooks.
OF_EVERY_MODULE: Final = frozenset(vars(nn.Module()))
#: Packages whose objects hold no values of an author's.
_PACKAGES: Final = sys.stdlib_module_names | {"torch", "numpy", "builtins"}
#: An object in an object, and no further: it may refer to all that the author's program has.
_DEEPEST: Final = 3


def copied_attributes(module: nn.Module, copies: dict[int, Any]) -> dict[str, Any]:
    """Copies of the lists, dicts, sets and objects of the author's among a module's attributes.

    Tensors and modules in them are the same. `copies` has the copies by the ids of the values, so
    that what is in two places stays one object.
    """
    copied: dict[str, Any] = {}
    if _package_of(type(module)) == "torch":  # its layers change no attribute in forward
        return copied

    for name, value in vars(module).items():
        if name not in OF_EVERY_MODULE and _may_change(value):
            copied[name] = _copied(value, copies, 0)
    return copied


def _copied(value: Any, copies: dict[int, Any], depth: int) -> Any:
    """A value with copies of all that forward may change in place."""
    if depth == _DEEPEST or not _may_change(value):
        return value
    if id(value) in copies:
        return copies[id(value)]

    try:
        copied = copy.copy(value)
    except Exception:  # whatever a __copy__ of the author's raises
        return value
    if copied is value:  # as a member of an enumeration
        return value
    copies[id(value)] = copied
    for items, key in _items_of(copied):
        items[key] = _copied(items[key], copies, depth + 1)
    return copied


def _items_of(value: Any) -> list[tuple[Any, Any]]:
    """What holds the items of a value, with each key or index; nothing for a set.

    An author's own containers may compute when they are asked: only their attributes count.
    """
    kind = type(value)
    if kind is set:
        return []
    if kind in (list, deque):
        return [(value, index) for index in range(len(value))]
    items = value if kind in (dict, OrderedDict, defaultdict) else attributes_of(value)
    return [(items, key) for key in items]


def change_tensors(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Replaces each tensor in the attributes of a module and its parts, where it is no parameter.

    Those in lists, dicts, tuples and objects of the author's are replaced as well.
    """
    seen = set[int]()
    for part in module.modules():
        for name, value in vars(part).items():
            if name not in OF_EVERY_MODULE and not isinstance(value, nn.Parameter):
                vars(part)[name] = _changed(value, change, seen, 0)


def _changed(value: Any, change: Callable[[Tensor], Tensor], seen: set[int], depth: int) -> Any:
    """A value with other tensors; what holds them is changed in place, but for tuples."""
    if type(value) in (Tensor, nn.Parameter):
        return change(value)
    if depth == _DEEPEST:
        return value
    if type(value) is tuple:
        return tuple(_changed(item, change, seen, depth + 1) for item in value)
    if not _may_change(value) or id(value) in seen:
        return value

    seen.add(id(value))
    for items, key in _items_of(value):
        items[key] = _changed(items[key], change, seen, depth + 1)
    return value


def _may_change(value: object) -> bool:
    """Whether forward may change a value in place."""
    return _is_changeable(type(value))  # type: ignore[arg-type]  # mypy: a class has no hash


@functools.cache
def _is_changeable(kind: type) -> bool:
    """Whether values of a type may be changed in place: containers and objects of an author's."""
    if kind in _CONTAINERS:
        return True

    # Functions stay, and so does what lets go of something when it is deleted.
    special = any({"__call__", "__del__"} & vars(base).keys() for base in kind.__mro__)
    if special or _package_of(kind) in _PACKAGES:
        return False
    has_attributes = bool(kind.__dictoffset__ or slots_of(kind))
    return has_attributes and not issubclass(kind, nn.Module | Tensor | type)


def _package_of(kind: type) -> str:
    return kind.__module__.partition(".")[0]
