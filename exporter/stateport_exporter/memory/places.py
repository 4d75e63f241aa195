# SPDX-License-Identifier: Apache-2.0
"""Where a module can keep a value: in an attribute or a buffer, or in a container in one.

A place is described by names, so that it is the same place in every copy of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..network.object_attributes import attributes_of
from .kept import OWN_ATTRIBUTES, is_holder, stored

#: The depth to which containers in containers are looked into.
_DEEPEST: Final = 3
#: The number of items of a container that are looked at.
_MOST_ITEMS: Final = 64


@dataclass(frozen=True)
class Place:
    """A place in a module that keeps a value.

    Attributes:
        module: the path of the module.
        key: the name of the attribute or buffer.
        inner: keys, indices and names that lead on in it.
    """

    module: str
    key: str
    inner: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """A name for an argument that takes the value: "encoder_h", "states_0"."""
        parts = [*self.module.split("."), self.key, *map(str, self.inner)]
        joined = "_".join(filter(None, parts)).strip("_")
        return "".join(letter if letter.isalnum() else "_" for letter in joined) or "state"

    @property
    def attribute(self) -> Place:
        """The attribute or buffer that this place is in."""
        return Place(self.module, self.key)

    def get(self, network: nn.Module) -> Any:
        """The value that is there now; None where nothing is."""
        try:
            value = _attributes(network.get_submodule(self.module), self.key)[self.key]
            for key in self.inner:
                value = stored(_items(value), key)
        except (LookupError, TypeError):
            return None
        return value

    def remove(self, network: nn.Module) -> None:
        """Removes the value from the dict that it is in, if it is in one."""
        *before, last = self.inner
        holder = _items(Place(self.module, self.key, tuple(before)).get(network))
        if isinstance(holder, MutableMapping):
            holder.pop(last, None)

    def put(self, network: nn.Module, value: Any) -> None:
        """Puts another value there."""
        holder: Any = _attributes(network.get_submodule(self.module), self.key)
        holder[self.key] = _replaced(holder.get(self.key), self.inner, value)


def places_of(network: nn.Module) -> Iterator[Place]:
    """All places of a network, but those of its parameters."""
    for path, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue

        own = {}
        for key, value in vars(module).items():
            if key not in OWN_ATTRIBUTES:
                own[key] = value

        for key, value in {**own, **module._buffers}.items():
            for inner in _inside(value):
                yield Place(path, key, inner)


def _attributes(module: nn.Module, key: str) -> dict[str, Any]:
    """The dict of a module that has a key: that of its buffers, or of its attributes."""
    buffers: dict[str, Any] = module._buffers
    if key in buffers:
        return buffers
    return vars(module)


def _inside(value: Any, depth: int = 0) -> Iterator[tuple[Any, ...]]:
    """The ways to a value itself, and to those in its containers."""
    yield ()
    if depth == _DEEPEST or isinstance(value, Tensor | nn.Module):
        return
    items = _items(value)
    for key in _keys(items)[:_MOST_ITEMS]:
        for rest in _inside(stored(items, key), depth + 1):
            yield (key, *rest)


def _items(value: Any) -> Any:
    """What a value holds, by key or index: nothing, where it is no container."""
    if isinstance(value, dict | list | tuple):
        return value
    if is_holder(value) and not isinstance(value, nn.Module):
        return attributes_of(value)
    return ()


def _keys(items: Any) -> list[Any]:
    """The keys or indices of what a value holds; the method of a dict's subclass does not run."""
    if isinstance(items, dict):
        return list(dict.keys(items))
    if isinstance(items, MutableMapping):
        return list(items)
    return list(range(len(items)))


def _replaced(value: Any, inner: tuple[Any, ...], new: Any) -> Any:
    """A value with another one at the end of a way into it; only tuples are made anew."""
    if not inner:
        return new
    key, *rest = inner
    items = _items(value)
    before = items.get(key) if isinstance(items, MutableMapping) else items[key]
    changed = _replaced(before, tuple(rest), new)
    if isinstance(value, tuple):
        parts = [*value[:key], changed, *value[key + 1 :]]
        if hasattr(value, "_fields"):
            return type(value)(*parts)
        return type(value)(parts)
    items[key] = changed
    return value
