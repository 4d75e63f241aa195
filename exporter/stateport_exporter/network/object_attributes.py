# SPDX-License-Identifier: Apache-2.0
"""The attributes of an object, by name: those in its `__dict__` and those in `__slots__`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, MutableMapping
from types import MemberDescriptorType
from typing import Any


def attributes_of(value: Any) -> MutableMapping[str, Any]:
    """The attributes of an object, as a mapping that also sets and deletes them.

    Properties, and a `__setattr__` of the class, are passed by.
    """
    kind: type = type(value)
    slots = slots_of(kind)
    if slots:
        return _SlottedAttributes(value, slots)
    attributes: dict[str, Any] = vars(value)
    return attributes


@functools.cache
def slots_of(kind: type) -> Mapping[str, MemberDescriptorType]:
    """The descriptors of `__slots__` of a class and its bases, by the names of the attributes."""
    slots: dict[str, MemberDescriptorType] = {}
    for base in kind.__mro__:
        if "__slots__" not in vars(base):
            continue
        for name, member in vars(base).items():
            if isinstance(member, MemberDescriptorType):
                slots.setdefault(name, member)
    return slots


class _SlottedAttributes(MutableMapping[str, Any]):
    """The attributes of an object whose class has `__slots__`."""

    def __init__(self, value: Any, slots: Mapping[str, MemberDescriptorType]) -> None:
        self._value = value
        self._slots = slots
        self._others: dict[str, Any] = getattr(value, "__dict__", {})

    def __getitem__(self, name: str) -> Any:
        if name not in self._slots:
            return self._others[name]
        try:
            return self._slots[name].__get__(self._value)
        except AttributeError as error:  # nothing was assigned yet
            raise KeyError(name) from error

    def __setitem__(self, name: str, item: Any) -> None:
        if name in self._slots:
            self._slots[name].__set__(self._value, item)
        else:
            self._others[name] = item

    def __delitem__(self, name: str) -> None:
        if name not in self._slots:
            del self._others[name]
            return
        try:
            self._slots[name].__delete__(self._value)
        except AttributeError as error:
            raise KeyError(name) from error

    def __iter__(self) -> Iterator[str]:
        for name in self._slots:
            if name in self:
                yield name
        yield from self._others

    def __len__(self) -> int:
        return len(list(iter(self)))
